//! The plan: typed operations, read from JSON in whole before the first of them is carried out.
//!
//! The vocabulary and what each operation means stands in `runtime_api/pysandbox/plan/operation.py`. It is read without
//! serde's derive: a procedural macro cannot be built with the flags that make this program static.

use serde_json::{Map, Value};
use std::ffi::{CStr, CString};

/// The version of the plan format that this executor carries out.
pub const VERSION: u64 = 1;

/// A string of the plan without a NUL in it, as the kernel wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(CString);

impl Text {
    pub fn new(text: &str) -> Result<Text, String> {
        CString::new(text)
            .map(Text)
            .map_err(|_| format!("NUL in {text:?}"))
    }

    pub fn as_c(&self) -> &CStr {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("")
    }
}

/// One line of an id map: id in the container, id on the host, how many.
pub type IdMap = (u32, u32, u32);

/// One OCI hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    pub path: Text,
    pub args: Vec<Text>,
    pub env: Vec<Text>,
    /// Seconds; None waits as long as the executor's own limit.
    pub timeout: Option<u64>,
}

/// A value of the plan that can be read from JSON.
pub trait FromValue: Sized {
    fn from_value(value: Value) -> Result<Self, String>;
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| format!("not a boolean: {value}"))
    }
}

impl FromValue for u64 {
    fn from_value(value: Value) -> Result<Self, String> {
        value
            .as_u64()
            .ok_or_else(|| format!("not a natural number: {value}"))
    }
}

impl FromValue for i64 {
    fn from_value(value: Value) -> Result<Self, String> {
        value
            .as_i64()
            .ok_or_else(|| format!("not an integer: {value}"))
    }
}

macro_rules! narrow {
    ($($type:ty),*) => {$(
        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, String> {
                value
                    .as_i64()
                    .and_then(|number| number.try_into().ok())
                    .ok_or_else(|| format!("out of range: {value}"))
            }
        }
    )*};
}
narrow!(u16, u32, i32);

impl FromValue for Text {
    fn from_value(value: Value) -> Result<Self, String> {
        value
            .as_str()
            .ok_or_else(|| format!("not a string: {value}"))
            .and_then(Text::new)
    }
}

impl FromValue for Value {
    fn from_value(value: Value) -> Result<Self, String> {
        Ok(value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Array(items) => items.into_iter().map(T::from_value).collect(),
            value => Err(format!("not a list: {value}")),
        }
    }
}

fn fixed<const N: usize>(value: Value) -> Result<[Value; N], String> {
    match value {
        Value::Array(items) => items
            .try_into()
            .map_err(|_| format!("not a list of {N} values")),
        value => Err(format!("not a list: {value}")),
    }
}

impl<A: FromValue, B: FromValue> FromValue for (A, B) {
    fn from_value(value: Value) -> Result<Self, String> {
        let [a, b] = fixed(value)?;
        Ok((A::from_value(a)?, B::from_value(b)?))
    }
}

impl<A: FromValue, B: FromValue, C: FromValue> FromValue for (A, B, C) {
    fn from_value(value: Value) -> Result<Self, String> {
        let [a, b, c] = fixed(value)?;
        Ok((A::from_value(a)?, B::from_value(b)?, C::from_value(c)?))
    }
}

impl FromValue for Hook {
    fn from_value(value: Value) -> Result<Self, String> {
        let mut fields = Fields::of(value)?;
        let path: Text = fields.required("path")?;
        let args: Option<Vec<Text>> = fields.optional("args")?;
        Ok(Hook {
            args: args
                .filter(|args| !args.is_empty())
                .unwrap_or_else(|| vec![path.clone()]),
            env: fields.optional("env")?.unwrap_or_default(),
            timeout: fields.optional("timeout")?,
            path,
        })
    }
}

/// Bytes that stand in JSON as base64 (RFC 4648, with padding).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl FromValue for Bytes {
    fn from_value(value: Value) -> Result<Self, String> {
        let text = value
            .as_str()
            .ok_or_else(|| format!("not a string: {value}"))?;
        decode_base64(text)
            .map(Bytes)
            .ok_or_else(|| "not base64".to_string())
    }
}

/// Decode standard base64 with padding; None for anything else.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if bytes.len() % 4 != 0 {
        return None;
    }
    let padding = bytes
        .iter()
        .rev()
        .take(2)
        .take_while(|&&b| b == b'=')
        .count();
    let mut decoded = Vec::with_capacity(bytes.len() / 4 * 3);
    for chunk in bytes[..bytes.len() - padding].chunks(4) {
        let mut group = 0u32;
        for &byte in chunk {
            group = group << 6 | sextet(byte)?;
        }
        group <<= 6 * (4 - chunk.len());
        decoded.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(decoded)
}

fn sextet(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

/// The members of one JSON object, taken one by one so that what is left over can be refused.
struct Fields(Map<String, Value>);

impl Fields {
    fn of(value: Value) -> Result<Fields, String> {
        match value {
            Value::Object(map) => Ok(Fields(map)),
            value => Err(format!("not an object: {value}")),
        }
    }

    fn required<T: FromValue>(&mut self, name: &str) -> Result<T, String> {
        let value = self
            .0
            .remove(name)
            .ok_or_else(|| format!("{name}: missing"))?;
        T::from_value(value).map_err(|reason| format!("{name}: {reason}"))
    }

    fn optional<T: FromValue>(&mut self, name: &str) -> Result<Option<T>, String> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::from_value(value)
                .map(Some)
                .map_err(|reason| format!("{name}: {reason}")),
        }
    }

    fn finish(self) -> Result<(), String> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("{name}: unknown argument")),
        }
    }
}

/// Declare the operations once: the enum, each one's name in JSON and how its arguments are read. An argument with
/// `= value` may be missing.
macro_rules! operations {
    ($($variant:ident $name:literal { $($field:ident: $type:ty $(= $default:expr)?),* $(,)? })*) => {
        /// One step of a plan.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Operation { $($variant { $($field: $type),* }),* }

        impl Operation {
            /// The name of the operation in JSON.
            pub fn name(&self) -> &'static str {
                match self { $(Operation::$variant { .. } => $name),* }
            }

            fn read(name: &str, fields: &mut Fields) -> Result<Operation, String> {
                match name {
                    $($name => Ok(Operation::$variant {
                        $($field: operations!(@read fields, $field $(, $default)?)),*
                    }),)*
                    _ => Err("unknown operation".to_string()),
                }
            }
        }
    };
    (@read $fields:ident, $field:ident) => { $fields.required(stringify!($field))? };
    (@read $fields:ident, $field:ident, $default:expr) => {
        $fields.optional(stringify!($field))?.unwrap_or($default)
    };
}

operations! {
    ParentDeathSignal "parent_death_signal" { signal: i32 }
    OomScoreAdj "oom_score_adj" { value: i32 }
    Dumpable "dumpable" { value: bool }
    OpenTree "open_tree" { slot: Text, path: Text, recursive: bool, follow: bool = true, inside: bool = false }
    OpenNull "open_null" { slot: Text }
    OpenDevice "open_device" { slot: Text, path: Text, kind: Text, major: u32, minor: u32 }
    SetAttributes "set_attributes" {
        slot: Text, set: u64 = 0, clear: u64 = 0, propagation: u64 = 0, recursive: bool = false,
    }
    IdMapMount "id_map_mount" { slot: Text, uid_maps: Vec<IdMap>, gid_maps: Vec<IdMap>, recursive: bool, namespace: Option<Text> = None }
    OpenIdMap "open_id_map" { slot: Text, uid_maps: Vec<IdMap>, gid_maps: Vec<IdMap>, namespace: Option<Text> = None }
    RequestIdMap "request_id_map" { slot: Text, map_slot: Text, recursive: bool }
    StageMounts "stage_mounts" { path: Text }
    TakeMounts "take_mounts" { }
    Join "join" { kind: Text, path: Text }
    JoinProcess "join_process" { kinds: Vec<Text> }
    Unshare "unshare" { kinds: Vec<Text> }
    Stop "stop" { name: Text }
    BecomeRoot "become_root" { }
    TimeOffsets "time_offsets" { offsets: Vec<(Text, i64, u32)> }
    EnterCgroups "enter_cgroups" { slots: Vec<Text> }
    Clone "clone" { into_cgroup: bool = false }
    NewSession "new_session" { }
    Keyring "keyring" { name: Text, permission: u32 = 0x0008_0000 }
    Loopback "loopback" { }
    RootPropagation "root_propagation" { flags: u64 }
    AttachRoot "attach_root" { slot: Text, path: Option<Text> }
    OpenRoot "open_root" { path: Text }
    UseRoot "use_root" { }
    OpenProc "open_proc" { }
    MountBind "mount_bind" {
        slot: Text, destination: Text, on_proc: bool = false, follow: bool = true,
    }
    MountFilesystem "mount_filesystem" {
        kind: Text, source: Option<Text> = None, destination: Text, options: Vec<(Text, Option<Text>)> = Vec::new(),
        attributes: u64 = 0, propagation: u64 = 0, recursive_set: u64 = 0, recursive_clear: u64 = 0,
        follow: bool = true, copy_up: bool = false, legacy_flags: Option<u64> = None,
        legacy_data: Option<Text> = None, keep_mode: bool = false,
    }
    Remount "remount" {
        destination: Text, set: u64 = 0, clear: u64 = 0, propagation: u64 = 0, recursive: bool = false,
    }
    MakeDevice "make_device" { path: Text, kind: Text, major: u32, minor: u32, mode: u32, uid: u32, gid: u32 }
    MakeLink "make_link" { path: Text, target: Text, replace: bool = false }
    MakeDirectory "make_directory" { path: Text, mode: u32 = 0o755 }
    RunHooks "run_hooks" { kind: Text, hooks: Vec<Hook>, state: Value }
    PivotRoot "pivot_root" { }
    MoveRoot "move_root" { }
    ChangeRoot "change_root" { }
    Console "console" { width: u16, height: u16, bind: bool, uid: u32, plain_newlines: bool = false }
    OwnStdio "own_stdio" { uid: u32 }
    Hostname "hostname" { name: Text }
    Domainname "domainname" { name: Text }
    Sysctl "sysctl" { key: Text, value: Text }
    ReadonlyPath "readonly_path" { path: Text }
    MaskPath "mask_path" { path: Text }
    Umask "umask" { value: u32 }
    NoNewPrivileges "no_new_privileges" { }
    Apparmor "apparmor" { profile: Text }
    Selinux "selinux" { label: Text }
    Scheduler "scheduler" {
        policy: u32, flags: u64, nice: i32, priority: u32, runtime: u64, deadline: u64, period: u64,
    }
    IoPriority "io_priority" { value: i32 }
    Personality "personality" { value: u64 }
    MemoryPolicy "memory_policy" { mode: i32, nodes: Vec<u32> }
    CpuAffinity "cpu_affinity" { cpus: Vec<u32> }
    Rlimit "rlimit" { resource: i32, soft: u64, hard: u64 }
    Home "home" { uid: u32 }
    FindProgram "find_program" { name: Text, path: Text, cwd: Text }
    Seccomp "seccomp" { program: Bytes, flags: u64, listener: bool = false }
    ChangeDirectory "change_directory" { path: Text }
    Credentials "credentials" {
        uid: u32, gid: u32, groups: Option<Vec<u32>> = None, bounding: u64, effective: u64, permitted: u64,
        inheritable: u64, ambient: u64,
    }
    WaitStart "wait_start" { }
    CloseDescriptors "close_descriptors" { preserve: u32 }
    Execute "execute" { args: Vec<Text>, env: Vec<Text> }
}

/// A whole plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub trace: bool,
    pub operations: Vec<Operation>,
}

impl Plan {
    /// Read a plan; the error names the operation and the argument that is wrong.
    pub fn parse(json: &[u8]) -> Result<Plan, String> {
        let value: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let mut fields = Fields::of(value)?;
        let version: u64 = fields.required("version")?;
        if version != VERSION {
            return Err(format!("version: {version}, this executor knows {VERSION}"));
        }
        let trace = fields.optional("trace")?.unwrap_or(false);
        let operations: Vec<Value> = fields.required("operations")?;
        fields.finish()?;
        let operations = operations.into_iter().enumerate().map(read_operation);
        Ok(Plan {
            trace,
            operations: operations.collect::<Result<_, _>>()?,
        })
    }

    /// How many descriptors from 3 on are the container's own: what `close_descriptors` says, else none.
    pub fn preserved(&self) -> u32 {
        let preserve = |operation: &Operation| match operation {
            Operation::CloseDescriptors { preserve } => Some(*preserve),
            _ => None,
        };
        self.operations.iter().find_map(preserve).unwrap_or(0)
    }
}

fn read_operation((index, value): (usize, Value)) -> Result<Operation, String> {
    let read = || {
        let mut fields = Fields::of(value)?;
        let name: Text = fields.required("op")?;
        let operation = Operation::read(name.as_str(), &mut fields)
            .and_then(|operation| fields.finish().map(|()| operation));
        operation.map_err(|reason| format!("{}: {reason}", name.as_str()))
    };
    read().map_err(|reason: String| format!("operations[{index}]: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(operations: &str) -> Result<Plan, String> {
        Plan::parse(format!(r#"{{"version":1,"operations":[{operations}]}}"#).as_bytes())
    }

    #[test]
    fn an_operation_is_read_with_its_arguments() {
        let plan = plan_of(r#"{"op":"umask","value":18}"#).unwrap();
        assert_eq!(plan.operations, vec![Operation::Umask { value: 0o22 }]);
    }

    #[test]
    fn an_argument_with_a_default_may_be_missing() {
        let plan = plan_of(r#"{"op":"make_link","path":"/a","target":"b"}"#).unwrap();
        assert!(matches!(
            plan.operations[0],
            Operation::MakeLink { replace: false, .. }
        ));
    }

    #[test]
    fn an_unknown_operation_is_refused_with_its_place() {
        assert_eq!(
            plan_of(r#"{"op":"explode"}"#).unwrap_err(),
            "operations[0]: explode: unknown operation"
        );
    }

    #[test]
    fn an_unknown_argument_is_refused() {
        assert!(plan_of(r#"{"op":"new_session","x":1}"#)
            .unwrap_err()
            .contains("x: unknown argument"));
    }

    #[test]
    fn another_version_is_refused() {
        assert!(Plan::parse(br#"{"version":2,"operations":[]}"#).is_err());
    }

    #[test]
    fn a_nul_in_a_string_is_refused() {
        assert!(plan_of(r#"{"op":"hostname","name":"a\u0000b"}"#).is_err());
    }

    #[test]
    fn a_number_out_of_range_is_refused() {
        assert!(plan_of(r#"{"op":"own_stdio","uid":4294967296}"#).is_err());
        assert!(plan_of(r#"{"op":"own_stdio","uid":-1}"#).is_err());
    }

    #[test]
    fn an_infinite_limit_is_read() {
        let plan = plan_of(r#"{"op":"rlimit","resource":7,"soft":1,"hard":18446744073709551615}"#)
            .unwrap();
        assert!(matches!(
            plan.operations[0],
            Operation::Rlimit { hard: u64::MAX, .. }
        ));
    }

    #[test]
    fn base64_is_decoded_with_every_padding() {
        assert_eq!(decode_base64("").unwrap(), b"");
        assert_eq!(decode_base64("Zg==").unwrap(), b"f");
        assert_eq!(decode_base64("Zm8=").unwrap(), b"fo");
        assert_eq!(decode_base64("Zm9vYmFy").unwrap(), b"foobar");
        assert!(decode_base64("Zg=").is_none());
        assert!(decode_base64("Zm9v====").is_none());
    }

    #[test]
    fn preserved_descriptors_are_known_before_the_plan_runs() {
        let plan = plan_of(r#"{"op":"close_descriptors","preserve":2}"#).unwrap();
        assert_eq!(plan.preserved(), 2);
    }
}
