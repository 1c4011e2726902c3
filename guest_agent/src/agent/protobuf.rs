//! Protocol buffers, as far as `agent.proto` and ttrpc need them: numbers, text, bytes, messages, lists, maps of text.
//!
//! What is read comes from the host, which is trusted with everything, yet a broken one must not crash the guest: every
//! length is checked, lists have a limit, and nothing nests deeper than the types do.

use std::collections::BTreeMap;

/// The most elements of one list or map.
pub const LONGEST_LIST: usize = 4096;

/// These bytes are not such a message.
#[derive(Debug, PartialEq)]
pub struct Malformed;

pub type Parsed<T> = Result<T, Malformed>;

/// A field's value as the wire has it.
#[derive(Debug, PartialEq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A fixed number, which no field here is.
    Other,
}

/// The fields of a message, one after the other.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next field's number and value; None at the end.
    pub fn field(&mut self) -> Parsed<Option<(u32, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(Malformed),
        };
        match number {
            0 => Err(Malformed),
            number => Ok(Some((number, value))),
        }
    }

    fn take(&mut self, length: usize) -> Parsed<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn varint(&mut self) -> Parsed<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(number) << 3);
        put_varint(out, value);
    }
}

/// Put a field of known length, an empty one too.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A message: its fields by number.
pub trait Message: Default {
    fn merge(&mut self, number: u32, value: Value) -> Parsed<()>;
    fn put(&self, out: &mut Vec<u8>);

    fn decode(data: &[u8]) -> Parsed<Self> {
        let mut message = Self::default();
        let mut reader = Reader(data);
        while let Some((number, value)) = reader.field()? {
            message.merge(number, value)?;
        }
        Ok(message)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }
}

/// What the field of a message can be.
pub trait Field {
    fn merge(&mut self, value: Value) -> Parsed<()>;
    fn put(&self, number: u32, out: &mut Vec<u8>);
}

macro_rules! number_field {
    ($($type:ty),*) => { $(
        impl Field for $type {
            fn merge(&mut self, value: Value) -> Parsed<()> {
                if let Value::Number(value) = value {
                    *self = value as $type;
                }
                Ok(())
            }

            fn put(&self, number: u32, out: &mut Vec<u8>) {
                put_number(out, number, *self as u64);
            }
        }
    )* };
}

number_field!(u32, u64, i64);

impl Field for bool {
    fn merge(&mut self, value: Value) -> Parsed<()> {
        if let Value::Number(value) = value {
            *self = value != 0;
        }
        Ok(())
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        put_number(out, number, u64::from(*self));
    }
}

impl Field for Vec<u8> {
    fn merge(&mut self, value: Value) -> Parsed<()> {
        if let Value::Bytes(value) = value {
            *self = value.to_vec();
        }
        Ok(())
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(out, number, self);
        }
    }
}

impl Field for String {
    fn merge(&mut self, value: Value) -> Parsed<()> {
        if let Value::Bytes(value) = value {
            *self = text(value)?;
        }
        Ok(())
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(out, number, self.as_bytes());
        }
    }
}

fn text(value: &[u8]) -> Parsed<String> {
    String::from_utf8(value.to_vec()).map_err(|_| Malformed)
}

fn push<T>(list: &mut Vec<T>, element: T) -> Parsed<()> {
    if list.len() >= LONGEST_LIST {
        return Err(Malformed);
    }
    list.push(element);
    Ok(())
}

impl Field for Vec<String> {
    fn merge(&mut self, value: Value) -> Parsed<()> {
        match value {
            Value::Bytes(value) => push(self, text(value)?),
            _ => Ok(()),
        }
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for element in self {
            put_bytes(out, number, element.as_bytes());
        }
    }
}

impl Field for Vec<u32> {
    fn merge(&mut self, value: Value) -> Parsed<()> {
        match value {
            Value::Number(value) => push(self, value as u32),
            Value::Bytes(packed) => {
                let mut reader = Reader(packed);
                while !reader.0.is_empty() {
                    push(self, reader.varint()? as u32)?;
                }
                Ok(())
            }
            Value::Other => Ok(()),
        }
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        let mut packed = Vec::new();
        for element in self {
            put_varint(&mut packed, u64::from(*element));
        }
        if !packed.is_empty() {
            put_bytes(out, number, &packed);
        }
    }
}

impl Field for BTreeMap<String, String> {
    fn merge(&mut self, value: Value) -> Parsed<()> {
        let Value::Bytes(value) = value else {
            return Ok(());
        };
        let (mut key, mut held) = (String::new(), String::new());
        let mut reader = Reader(value);
        while let Some((number, value)) = reader.field()? {
            match number {
                1 => key.merge(value)?,
                2 => held.merge(value)?,
                _ => {}
            }
        }
        if self.len() >= LONGEST_LIST {
            return Err(Malformed);
        }
        self.insert(key, held);
        Ok(())
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for (key, held) in self {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            put_bytes(&mut entry, 2, held.as_bytes());
            put_bytes(out, number, &entry);
        }
    }
}

impl<T: Message> Field for Vec<T> {
    fn merge(&mut self, value: Value) -> Parsed<()> {
        match value {
            Value::Bytes(value) => push(self, T::decode(value)?),
            _ => Ok(()),
        }
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for element in self {
            put_bytes(out, number, &element.encode());
        }
    }
}

impl<T: Message> Field for Option<T> {
    fn merge(&mut self, value: Value) -> Parsed<()> {
        let Value::Bytes(value) = value else {
            return Ok(());
        };
        let held = self.get_or_insert_default();
        let mut reader = Reader(value);
        while let Some((number, value)) = reader.field()? {
            held.merge(number, value)?;
        }
        Ok(())
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            put_bytes(out, number, &message.encode());
        }
    }
}

/// Structures that are messages: each field with its number.
macro_rules! messages {
    ($($(#[$note:meta])* $name:ident { $($field:ident: $type:ty = $number:literal),* $(,)? })*) => { $(
        $(#[$note])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $(pub $field: $type,)*
        }

        impl $crate::protobuf::Message for $name {
            #[allow(unused_variables)] // of a message without fields
            fn merge(&mut self, number: u32, value: $crate::protobuf::Value) -> $crate::protobuf::Parsed<()> {
                match number {
                    $($number => $crate::protobuf::Field::merge(&mut self.$field, value),)*
                    _ => Ok(()), // of a later version
                }
            }

            #[allow(unused_variables)]
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::protobuf::Field::put(&self.$field, $number, out);)*
            }
        }
    )* };
}

pub(crate) use messages;

#[cfg(test)]
mod tests {
    use super::*;

    messages! {
        Inner { name: String = 1 }
        Outer {
            number: u32 = 1, long: u64 = 2, flag: bool = 3, data: Vec<u8> = 4, words: Vec<String> = 5,
            numbers: Vec<u32> = 6, map: BTreeMap<String, String> = 7, inner: Option<Inner> = 8, inners: Vec<Inner> = 9,
        }
    }

    fn full() -> Outer {
        let inner = |name: &str| Inner { name: name.into() };
        Outer {
            number: 300,
            long: u64::MAX,
            flag: true,
            data: vec![0, 255],
            words: vec!["".into(), "ü".into()],
            numbers: vec![0, 1, 1 << 31],
            map: BTreeMap::from([("k".into(), "v".into())]),
            inner: Some(inner("")),
            inners: vec![inner("a"), inner("")],
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_again() {
        assert_eq!(Outer::decode(&full().encode()), Ok(full()));
        assert_eq!(Outer::default().encode(), b"");
    }

    #[test]
    fn the_bytes_are_those_of_protocol_buffers() {
        let message = Outer {
            number: 150,
            words: vec!["testing".into()],
            numbers: vec![3, 270],
            ..Outer::default()
        };
        assert_eq!(
            message.encode(),
            b"\x08\x96\x01\x2a\x07testing\x32\x03\x03\x8e\x02"
        );
    }

    #[test]
    fn every_prefix_and_every_changed_byte_is_refused_or_understood_without_a_panic() {
        let bytes = full().encode();
        for length in 0..bytes.len() {
            let _ = Outer::decode(&bytes[..length]);
            for change in [0x00, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[length] = change;
                let _ = Outer::decode(&changed);
            }
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let odd: [&[u8]; 7] = [
            b"\x08",                                         // ends within a number
            b"\x22\x05ab",                                   // longer than what holds it
            b"\x0b",                                         // a group
            b"\x00\x00",                                     // field 0
            b"\x2a\x01\xff",                                 // not UTF-8
            b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", // eleven bytes
            b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a length beyond any memory
        ];
        for bytes in odd {
            assert_eq!(Outer::decode(bytes), Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_list_has_a_limit() {
        let words = |count: usize| b"\x2a\x00".repeat(count);
        assert!(Outer::decode(&words(LONGEST_LIST)).is_ok());
        assert_eq!(Outer::decode(&words(LONGEST_LIST + 1)), Err(Malformed));
    }

    #[test]
    fn unknown_fields_are_skipped() {
        assert_eq!(
            Outer::decode(b"\xf8\x01\x05\xfd\x01abcd\xf9\x01abcdefgh\x08\x01"),
            Ok(Outer {
                number: 1,
                ..Outer::default()
            })
        );
    }
}
