//! Mounts: what could be mounted, and what the table of mounts shows. Attempts happen in a mount namespace of the
//! child's own where one can be had, on a directory of its own; nobody else sees them, and they end with the child.

use crate::fact::{cut, facts, outcome, unable, Facts};
use crate::place::{c_string, Place};
use crate::status::of_file;
use crate::Probe;
use pysandbox_guest::sys;
use serde_json::{json, Value};

const KINDS: [&str; 9] = [
    "tmpfs",
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "bpf",
    "debugfs",
    "securityfs",
    "devtmpfs",
];
/// Which rows of the table a probe reports.
type Wanted = fn(&Row) -> bool;

/// Most lines of the table that are reported.
const MANY: usize = 30;
const TABLE: &str = "/proc/self/mountinfo";

pub fn probes() -> Vec<Probe> {
    let mut probes: Vec<Probe> = KINDS
        .into_iter()
        .map(|kind| {
            let how = format!("unshare(CLONE_NEWNS), mount a {kind} on a directory of its own");
            Probe::new(format!("mount.{kind}"), how, move |place| {
                attempt(place, kind, 0)
            })
        })
        .collect();
    probes.push(Probe::new(
        "mount.bind",
        "unshare(CLONE_NEWNS), bind / on a directory of its own",
        |place| attempt(place, "", libc::MS_BIND),
    ));
    probes.push(Probe::new(
        "mount.remount_proc_sys",
        "unshare(CLONE_NEWNS), remount /proc/sys writable",
        |_| remount(),
    ));
    let rows: [(&str, &str, Wanted); 7] = [
        ("limits.tmpfs", "writable tmpfs without a size", |row| {
            row.kind == "tmpfs" && !row.read_only() && !row.special.contains("size=")
        }),
        (
            "mounts.sysfs_writable",
            "sysfs that is mounted writable",
            |row| row.kind == "sysfs" && !row.read_only(),
        ),
        (
            "mounts.proc_sys_writable",
            "/proc/sys that is mounted writable",
            |row| row.is_open_proc_sys(),
        ),
        (
            "mounts.cgroup_writable",
            "cgroup file systems that are mounted writable",
            |row| row.kind.starts_with("cgroup") && !row.read_only(),
        ),
        ("mounts.shared", "mounts that pass their mounts on", |row| {
            row.optional.contains("shared:")
        }),
        (
            "mounts.kernel",
            "debugfs, tracefs, bpf, securityfs, configfs, efivarfs and the like",
            |row| row.is_kernels(),
        ),
        (
            "mounts.host_paths",
            "paths of the host: roots of bind mounts, layers of overlays",
            |row| row.shows_host(),
        ),
    ];
    for (name, what, wanted) in rows {
        let how = format!("{what}, in {TABLE}");
        let act = of_file(TABLE, move |table, place| matching(table, place, wanted));
        probes.push(Probe::new(name, how, act));
    }
    probes
}

fn attempt(place: &Place, kind: &str, flags: u64) -> Facts {
    let source = if kind.is_empty() { "/" } else { kind };
    let tried = place.with_directory(|directory| {
        alone();
        let names = [source, directory, kind].map(|name| c_string(name).unwrap_or_default());
        let kind = (!kind.is_empty()).then_some(names[2].as_c_str());
        // A hierarchy with a name and no controller: one with controllers would take them from the host's own.
        let data = (source == "cgroup").then_some(c"none,name=pysandbox-probe");
        let result = sys::mount(Some(&names[0]), &names[1], kind, flags, data);
        if result.is_ok() {
            let _ = sys::umount_detach(&names[1]);
        }
        outcome(result)
    });
    match tried {
        Ok(facts) => facts,
        Err(errno) => unable(&format!("no directory to mount on: {}", errno.text())),
    }
}

/// Remount what is there; only in a mount namespace of our own, so that nobody else gets it.
fn remount() -> Facts {
    if !alone() {
        return outcome::<()>(Err(sys::Errno(libc::EPERM)));
    }
    let flags = libc::MS_REMOUNT | libc::MS_BIND;
    // Where it is no mount of its own it is /proc that would be remounted: EINVAL says so.
    outcome(sys::mount(None, c"/proc/sys", None, flags, None))
}

/// Enter a mount namespace whose mounts nobody else sees; false where that is not allowed.
fn alone() -> bool {
    sys::unshare(libc::CLONE_NEWNS).is_ok()
        && sys::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None).is_ok()
}

/// One line of /proc/PID/mountinfo (proc(5)).
struct Row<'a> {
    root: &'a str,
    place: &'a str,
    options: &'a str,
    optional: &'a str,
    kind: &'a str,
    special: &'a str,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Option<Row<'a>> {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.splitn(7, ' ').skip(3);
        let (root, place, options) = (fields.next()?, fields.next()?, fields.next()?);
        let mut after = right.splitn(3, ' ');
        Some(Row {
            root,
            place,
            options,
            optional: fields.next().unwrap_or(""),
            kind: after.next()?,
            special: after.nth(1).unwrap_or(""),
        })
    }

    fn read_only(&self) -> bool {
        self.options.split(',').any(|option| option == "ro")
            || self.special.split(',').any(|option| option == "ro")
    }

    /// Whether this is what /proc/sys is seen through, and can be written.
    fn is_open_proc_sys(&self) -> bool {
        self.kind == "proc" && self.place == "/proc/sys" && !self.read_only()
    }

    fn is_kernels(&self) -> bool {
        const KERNELS: [&str; 9] = [
            "debugfs",
            "tracefs",
            "bpf",
            "securityfs",
            "configfs",
            "efivarfs",
            "pstore",
            "fusectl",
            "binfmt_misc",
        ];
        KERNELS.contains(&self.kind)
    }

    /// Whether it is a part of another file system than the kernel's own, or an overlay that names its layers.
    fn shows_host(&self) -> bool {
        const PSEUDO: [&str; 9] = [
            "devtmpfs", "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "nsfs", "tmpfs",
        ];
        let part = self.root.len() > 1 && !PSEUDO.contains(&self.kind);
        part || self.special.contains("lowerdir=") || self.special.contains("upperdir=")
    }
}

fn matching(table: &str, place: &Place, wanted: Wanted) -> Facts {
    let mut rows: Vec<Row> = table.lines().filter_map(Row::parse).collect();
    if rows.is_empty() {
        return unable("no line of the table can be read");
    }
    // Where /proc/sys is no mount of its own it is as writable as /proc.
    let bare = !rows.iter().any(|row| row.place == "/proc/sys");
    for row in &mut rows {
        if bare && row.place == "/proc" && row.kind == "proc" {
            row.place = "/proc/sys";
        }
    }
    let found: Vec<Value> = rows
        .iter()
        .filter(|row| row.place != place.own && wanted(row))
        .map(|row| json!(cut(&format!("{} {} {}", row.place, row.kind, row.root))))
        .take(MANY)
        .collect();
    facts([("found", json!(found)), ("mounts", json!(rows.len()))])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "22 1 0:5 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
         23 22 0:6 / /proc rw - proc proc rw\n\
         24 22 0:7 / /sys ro,nosuid - sysfs sysfs rw\n\
         25 22 254:0 /srv/files /data rw - ext4 /dev/vda rw\n\
         26 22 0:9 / /overlay rw - overlay overlay rw,lowerdir=/var/lib/x\n\
         27 22 254:0 /build/probe /dev/.own ro - ext4 /dev/vda rw\n";

    fn found(wanted: Wanted) -> Vec<String> {
        let place = Place {
            own: "/dev/.own".into(),
            ..Place::default()
        };
        let facts = matching(LINES, &place, wanted);
        serde_json::from_value(facts["found"].clone()).unwrap()
    }

    #[test]
    fn paths_of_the_host_are_roots_of_bind_mounts_and_layers_of_overlays_but_not_our_own() {
        assert_eq!(
            found(|row| row.shows_host()),
            ["/data ext4 /srv/files", "/overlay overlay /"]
        );
    }

    #[test]
    fn proc_sys_is_as_writable_as_proc_where_it_is_no_mount_of_its_own() {
        assert_eq!(found(|row| row.is_open_proc_sys()), ["/proc/sys proc /"]);
    }

    #[test]
    fn a_shared_mount_is_found_and_a_read_only_sysfs_is_none_that_is_writable() {
        assert_eq!(found(|row| row.optional.contains("shared:")), ["/ ext4 /"]);
        assert!(found(|row| row.kind == "sysfs" && !row.read_only()).is_empty());
    }
}
