//! ttrpc's frames out of a stream of bytes: a header of ten bytes (length and stream big-endian, type, flags), then at
//! most 4 MiB; and the reset of `agent.proto`, which a new host begins with.

/// Bytes in one frame.
pub const LIMIT: usize = 4 * 1024 * 1024;
const HEADER: usize = 10;

pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;
pub const DATA: u8 = 3;
pub const RESET: u8 = 0x52;

pub const REMOTE_CLOSED: u8 = 1;
pub const NO_DATA: u8 = 4;

/// How a reset begins; a nonce of 16 bytes follows.
const RESET_PREFIX: &[u8; 26] = b"\x00\x00\x00\x20\x00\x00\x00\x00\x52\x00pysandbox reset\0";
const RESET_LENGTH: usize = RESET_PREFIX.len() + 16;

#[derive(Debug, PartialEq)]
pub enum Frame {
    Request {
        stream: u32,
        flags: u8,
        payload: Vec<u8>,
    },
    Data {
        stream: u32,
        flags: u8,
        payload: Vec<u8>,
    },
    /// All of it, to be sent back.
    Reset(Vec<u8>),
}

/// The bytes of one frame.
pub fn encode(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(payload);
    frame
}

/// Frames from bytes as they come.
#[derive(Default)]
pub struct Reader {
    buffer: Vec<u8>,
    /// Where in the buffer the next frame begins.
    start: usize,
    /// What came was no frame: only a reset helps.
    lost: bool,
}

impl Reader {
    pub fn feed(&mut self, data: &[u8]) {
        const USUAL: usize = 64 * 1024;
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.shrink_to(USUAL); // what one large frame took is not kept
        }
        self.buffer.extend_from_slice(data);
    }

    /// Whether a frame has begun and not ended.
    pub fn is_partial(&self) -> bool {
        !self.lost && self.start < self.buffer.len()
    }

    /// Give up on what has come: read on to the next reset.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    pub fn next(&mut self) -> Option<Frame> {
        if self.lost && !self.find_reset() {
            return None;
        }
        let rest = &self.buffer[self.start..];
        let (header, body) = rest.split_first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let (kind, flags) = (header[8], header[9]);
        if length > LIMIT || !matches!(kind, REQUEST | DATA | RESET) {
            self.lost = true;
            return self.next();
        }
        let payload = body.get(..length)?;
        let frame = match kind {
            REQUEST => Frame::Request {
                stream,
                flags,
                payload: payload.to_vec(),
            },
            DATA => Frame::Data {
                stream,
                flags,
                payload: payload.to_vec(),
            },
            _ if rest.starts_with(RESET_PREFIX) => Frame::Reset(rest[..RESET_LENGTH].to_vec()),
            _ => {
                self.lost = true;
                return self.next();
            }
        };
        self.start += HEADER + length;
        Some(frame)
    }

    /// Drop what stands before a reset. What may be the beginning of one is kept.
    fn find_reset(&mut self) -> bool {
        let rest = &self.buffer[self.start..];
        let found = rest
            .windows(RESET_PREFIX.len())
            .position(|window| window == RESET_PREFIX);
        match found {
            Some(position) => {
                self.start += position;
                self.lost = false;
                true
            }
            None => {
                self.start += rest.len().saturating_sub(RESET_PREFIX.len() - 1);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset() -> Vec<u8> {
        [RESET_PREFIX.as_slice(), &[7; 16]].concat()
    }

    fn all(reader: &mut Reader) -> Vec<Frame> {
        std::iter::from_fn(|| reader.next()).collect()
    }

    fn request(stream: u32, payload: &[u8]) -> Frame {
        Frame::Request {
            stream,
            flags: 0,
            payload: payload.to_vec(),
        }
    }

    #[test]
    fn frames_are_read_however_the_bytes_are_cut() {
        let bytes = [
            encode(1, REQUEST, 0, b"abc"),
            reset(),
            encode(3, DATA, 5, b""),
        ]
        .concat();
        for size in 1..bytes.len() {
            let mut reader = Reader::default();
            let mut frames = Vec::new();
            for part in bytes.chunks(size) {
                reader.feed(part);
                frames.extend(all(&mut reader));
            }
            let data = Frame::Data {
                stream: 3,
                flags: 5,
                payload: vec![],
            };
            assert_eq!(
                frames,
                [request(1, b"abc"), Frame::Reset(reset()), data],
                "{size}"
            );
            assert!(!reader.is_partial());
        }
    }

    #[test]
    fn after_what_is_no_frame_only_a_reset_is_understood() {
        let odd = [
            encode(1, 9, 0, b"x"),
            encode(1, RESPONSE, 0, b""),
            encode(0, RESET, 0, b"x"),
            vec![0xff; 10],
        ];
        for start in odd {
            for size in [1, 3, 50, 1000] {
                let bytes = [
                    start.clone(),
                    encode(1, REQUEST, 0, b"lost"),
                    reset(),
                    encode(1, REQUEST, 0, b"found"),
                ]
                .concat();
                let mut reader = Reader::default();
                let mut frames = Vec::new();
                for part in bytes.chunks(size) {
                    reader.feed(part);
                    frames.extend(all(&mut reader));
                }
                assert_eq!(frames, [Frame::Reset(reset()), request(1, b"found")]);
            }
        }
    }

    #[test]
    fn what_is_lost_takes_no_memory() {
        let mut reader = Reader::default();
        reader.lose();
        for _ in 0..100 {
            reader.feed(&[0; 4096]);
            assert_eq!(reader.next(), None);
        }
        reader.feed(b"");
        assert!(reader.buffer.len() < RESET_LENGTH);
    }

    #[test]
    fn a_frame_of_4_mib_is_read_and_a_longer_one_is_not() {
        let mut reader = Reader::default();
        reader.feed(&encode(1, REQUEST, 0, &vec![1; LIMIT]));
        assert_eq!(all(&mut reader).len(), 1);
        reader.feed(&encode(3, REQUEST, 0, &vec![1; LIMIT + 1]));
        assert_eq!(all(&mut reader).len(), 0);
        assert!(reader.lost);
    }
}
