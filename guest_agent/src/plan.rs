//! The plan: typed operations, read from JSON in whole before the first of them is carried out.
//!
//! The vocabulary and what each operation means stands in `runtime_api/pysandbox/plan/operation.py`. It is read without
//! serde's derive: a procedural macro cannot be built with the flags that make this program static. It is read straight
//! into the operations: a tree of JSON values before them would take four times as long, in every start of a container.

use serde_core::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt::{self, Formatter};

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

/// Have a type read from a JSON string by a function; its errors are told with the place.
macro_rules! from_string {
    ($type:ty, $read:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct FromString;
                impl Visitor<'_> for FromString {
                    type Value = $type;

                    fn expecting(&self, formatter: &mut Formatter) -> fmt::Result {
                        formatter.write_str("a string")
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$type, E> {
                        $read(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(FromString)
            }
        }
    };
}
from_string!(Text, Text::new);

/// Bytes that stand in JSON as base64 (RFC 4648, with padding).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

from_string!(Bytes, |text| decode_base64(text)
    .map(Bytes)
    .ok_or("not base64"));

/// Decode standard base64 with padding; None for anything else.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if bytes.len() % 4 != 0 {
        return None;
    }
    let padding = bytes.iter().rev().take(2).take_while(|&&b| b == b'=');
    let unpadded = &bytes[..bytes.len() - padding.count()];
    let mut decoded = Vec::with_capacity(bytes.len() / 4 * 3);
    for chunk in unpadded.chunks(4) {
        let mut group = 0u32;
        for &byte in chunk {
            group = group << 6 | u32::from(sextet(byte)?);
        }
        group <<= 6 * (4 - chunk.len());
        decoded.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(decoded)
}

fn sextet(byte: u8) -> Option<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const NONE: u8 = 0xff;
    const VALUES: [u8; 256] = {
        let mut values = [NONE; 256];
        let mut value = 0;
        while value < 64 {
            values[ALPHABET[value] as usize] = value as u8;
            value += 1;
        }
        values
    };
    Some(VALUES[byte as usize]).filter(|&value| value != NONE)
}

/// The name of a member, copied only if it is written with escapes.
#[derive(PartialEq)]
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name<'de>, D::Error> {
        struct FromString;
        impl<'de> Visitor<'de> for FromString {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut Formatter) -> fmt::Result {
                formatter.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_string())))
            }
        }
        deserializer.deserialize_str(FromString)
    }
}

/// Say where an error is.
fn at<E: Error>(place: impl fmt::Display) -> impl FnOnce(E) -> E {
    move |error| E::custom(format_args!("{place}: {error}"))
}

/// Read the value of the member `name`, which is met for the first time.
fn take<'de, T: Deserialize<'de>, M: MapAccess<'de>>(
    members: &mut M,
    name: &str,
    place: &mut Option<T>,
) -> Result<(), M::Error> {
    if place.is_some() {
        return Err(M::Error::custom(format_args!("{name}: given twice")));
    }
    *place = Some(members.next_value().map_err(at(name))?);
    Ok(())
}

fn missing<E: Error>(name: &str) -> E {
    E::custom(format_args!("{name}: missing"))
}

/// Read the members of an object into variables of their names. A member with `= value` may be missing, or null; what
/// is told after `else` is done with the name of any other.
macro_rules! members {
    ($map:ident { $($field:ident: $type:ty $(= $default:expr)?),* } else $other:expr) => {
        $(let mut $field: Option<members!(@type $type $(, $default)?)> = None;)*
        while let Some(name) = $map.next_key::<Name>()? {
            match name.0.as_ref() {
                $(stringify!($field) => take($map, stringify!($field), &mut $field)?,)*
                other => $other($map, other)?,
            }
        }
        $(let $field = members!(@value $field $(, $default)?);)*
    };
    (@type $type:ty) => { $type };
    (@type $type:ty, $default:expr) => { Option<$type> };
    (@value $field:ident) => { $field.ok_or_else(|| missing(stringify!($field)))? };
    (@value $field:ident, $default:expr) => { $field.flatten().unwrap_or($default) };
}

fn refuse_member<'de, M: MapAccess<'de>>(_: &mut M, name: &str) -> Result<(), M::Error> {
    Err(M::Error::custom(format_args!("{name}: unknown argument")))
}

fn skip_member<'de, M: MapAccess<'de>>(members: &mut M, _: &str) -> Result<(), M::Error> {
    members.next_value::<IgnoredAny>().map(|_| ())
}

/// Have a type read from a JSON object by a function.
macro_rules! from_object {
    ($type:ty, $read:path) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct FromObject;
                impl<'de> Visitor<'de> for FromObject {
                    type Value = $type;

                    fn expecting(&self, formatter: &mut Formatter) -> fmt::Result {
                        formatter.write_str("an object")
                    }

                    fn visit_map<M: MapAccess<'de>>(
                        self,
                        mut members: M,
                    ) -> Result<$type, M::Error> {
                        $read(&mut members)
                    }
                }
                deserializer.deserialize_map(FromObject)
            }
        }
    };
}
from_object!(Hook, read_hook);
from_object!(Operation, read_operation);
from_object!(Plan, read_plan);

/// A hook is the spec's own, with whatever else is said there.
fn read_hook<'de, M: MapAccess<'de>>(map: &mut M) -> Result<Hook, M::Error> {
    members!(map {
        path: Text, args: Vec<Text> = Vec::new(), env: Vec<Text> = Vec::new(), timeout: Option<u64> = None
    } else skip_member);
    let args = if args.is_empty() {
        vec![path.clone()]
    } else {
        args
    };
    Ok(Hook {
        path,
        args,
        env,
        timeout,
    })
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

            fn read<'de, M: MapAccess<'de>>(name: &str, map: &mut M) -> Result<Operation, M::Error> {
                match name {
                    $($name => {
                        members!(map { $($field: $type $(= $default)?),* } else refuse_member);
                        Ok(Operation::$variant { $($field),* })
                    })*
                    _ => Err(M::Error::custom("unknown operation")),
                }
            }
        }
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
        // All at once: text by text it would take longer.
        let json = std::str::from_utf8(json).map_err(|error| error.to_string())?;
        serde_json::from_str(json).map_err(|error| {
            let text = error.to_string();
            // A plan is one line, and who wrote it is a program.
            let place = text.rfind(" at line ").unwrap_or(text.len());
            text[..place].to_string()
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

fn read_plan<'de, M: MapAccess<'de>>(map: &mut M) -> Result<Plan, M::Error> {
    let mut operations = None;
    // Each says itself which one it is.
    let mut read_operations = |map: &mut M, name: &str| {
        if name != "operations" {
            return refuse_member(map, name);
        }
        operations = Some(map.next_value::<Operations>()?.0);
        Ok(())
    };
    members!(map { version: Version, trace: bool = false } else read_operations);
    let Version = version;
    let operations = operations.ok_or_else(|| missing("operations"))?;
    Ok(Plan { trace, operations })
}

/// An operation's name comes first: it says which arguments there can be.
fn read_operation<'de, M: MapAccess<'de>>(map: &mut M) -> Result<Operation, M::Error> {
    if map.next_key::<Name>()? != Some(Name("op".into())) {
        return Err(M::Error::custom("op: must come first"));
    }
    let Name(name) = map.next_value()?;
    Operation::read(&name, map).map_err(at(name))
}

/// The version that this executor knows. It comes first in a plan: what follows in another can be anything.
struct Version;

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        match u64::deserialize(deserializer)? {
            VERSION => Ok(Version),
            other => Err(D::Error::custom(format_args!(
                "{other}, this executor knows {VERSION}"
            ))),
        }
    }
}

struct Operations(Vec<Operation>);

impl<'de> Deserialize<'de> for Operations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Operations, D::Error> {
        struct FromList;
        impl<'de> Visitor<'de> for FromList {
            type Value = Operations;

            fn expecting(&self, formatter: &mut Formatter) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Operations, S::Error> {
                let mut operations = Vec::with_capacity(128);
                loop {
                    let index = operations.len();
                    match list.next_element() {
                        Ok(Some(operation)) => operations.push(operation),
                        Ok(None) => return Ok(Operations(operations)),
                        Err(error) => return Err(at(format_args!("operations[{index}]"))(error)),
                    }
                }
            }
        }
        deserializer.deserialize_seq(FromList)
    }
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
    fn an_operation_that_does_not_say_first_what_it_is_is_refused() {
        let refused = plan_of(r#"{"value":18,"op":"umask"}"#).unwrap_err();
        assert_eq!(refused, "operations[0]: op: must come first");
        assert_eq!(
            plan_of("{}").unwrap_err(),
            "operations[0]: op: must come first"
        );
    }

    #[test]
    fn an_argument_that_is_missing_or_of_another_kind_is_told_with_its_place() {
        let refused = |operations| plan_of(operations).unwrap_err();
        assert_eq!(
            refused(r#"{"op":"new_session"},{"op":"umask"}"#),
            "operations[1]: umask: value: missing"
        );
        assert_eq!(
            refused(r#"{"op":"umask","value":"18"}"#),
            r#"operations[0]: umask: value: invalid type: string "18", expected u32"#
        );
        assert_eq!(
            refused(r#"{"op":"umask","value":null}"#),
            "operations[0]: umask: value: invalid type: null, expected u32"
        );
    }

    #[test]
    fn an_argument_that_is_given_twice_is_refused() {
        let refused = plan_of(r#"{"op":"umask","value":18,"value":0}"#).unwrap_err();
        assert_eq!(refused, "operations[0]: umask: value: given twice");
    }

    #[test]
    fn an_argument_with_a_default_may_be_null() {
        let plan = plan_of(r#"{"op":"set_attributes","slot":"a","set":null}"#).unwrap();
        assert!(matches!(
            plan.operations[0],
            Operation::SetAttributes { set: 0, .. }
        ));
    }

    #[test]
    fn names_may_be_written_with_escapes() {
        let plan = plan_of(r#"{"\u006fp":"um\u0061sk","v\u0061lue":18}"#).unwrap();
        assert_eq!(plan.operations, vec![Operation::Umask { value: 0o22 }]);
    }

    #[test]
    fn a_hook_takes_its_path_as_its_name_and_says_more_than_is_needed() {
        let hook = r#"{"path":"/h","args":null,"comment":{"any":[1]}}"#;
        let plan = plan_of(&format!(
            r#"{{"op":"run_hooks","kind":"createContainer","hooks":[{hook}],"state":{{"id":"a"}}}}"#
        ));
        let Operation::RunHooks { hooks, state, .. } = &plan.unwrap().operations[0] else {
            panic!("not run_hooks");
        };
        assert_eq!(hooks[0].args, vec![Text::new("/h").unwrap()]);
        assert_eq!(state["id"], "a");
    }

    #[test]
    fn what_follows_a_plan_is_refused() {
        assert!(Plan::parse(br#"{"version":1,"operations":[]} x"#).is_err());
        assert!(Plan::parse(br#"{"version":1,"operations":[],"more":1}"#).is_err());
        assert!(Plan::parse(br#"{"version":1}"#).is_err());
    }

    #[test]
    fn another_version_is_refused_whatever_follows() {
        let refused = Plan::parse(br#"{"version":2,"operations":"other"}"#).unwrap_err();
        assert_eq!(refused, "version: 2, this executor knows 1");
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
        assert!(decode_base64("Zm=v").is_none());
        assert!(decode_base64("Zm9-").is_none());
        assert_eq!(decode_base64("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
    }

    #[test]
    fn preserved_descriptors_are_known_before_the_plan_runs() {
        let plan = plan_of(r#"{"op":"close_descriptors","preserve":2}"#).unwrap();
        assert_eq!(plan.preserved(), 2);
    }
}
