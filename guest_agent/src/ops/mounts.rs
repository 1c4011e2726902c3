//! Mounts: detached copies, new file systems, their attributes, and where they are attached.

use crate::executor::Executor;
use crate::ops::copy_up;
use crate::ops::devices::device_kind;
use crate::ops::namespaces::{mapping_namespace, open_namespace};
use crate::ops::paths::{self, Links, Make};
use crate::plan::{IdMap, Operation, Text};
use crate::report::{Context, Failure, Outcome};
use crate::sys::{self, Errno, MountAttr};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

pub fn attributes(set: u64, clear: u64, propagation: u64) -> MountAttr {
    MountAttr {
        set,
        clear,
        propagation,
        userns: 0,
    }
}

fn is_empty(attr: &MountAttr) -> bool {
    attr.set == 0 && attr.clear == 0 && attr.propagation == 0
}

pub fn open_tree(
    executor: &mut Executor,
    slot: &Text,
    path: &Text,
    recursive: bool,
    follow: bool,
) -> Outcome {
    let recursive = if recursive { sys::AT_RECURSIVE } else { 0 };
    let nofollow = if follow { 0 } else { sys::AT_SYMLINK_NOFOLLOW };
    let flags = sys::OPEN_TREE_CLONE | recursive | nofollow;
    let tree = sys::open_tree(sys::borrow(libc::AT_FDCWD), path.as_c(), flags)
        .at("open_tree", path.as_str())?;
    if !follow {
        refuse_link(tree.as_fd(), path)?;
    }
    keep_tree(executor, slot, tree);
    Ok(())
}

/// A detached copy of what a path of the container shows now, with the mounts made so far.
pub fn open_tree_inside(
    executor: &mut Executor,
    slot: &Text,
    path: &Text,
    recursive: bool,
    follow: bool,
) -> Outcome {
    let root = executor.slots.get("root")?;
    let source = if follow {
        paths::resolve(root, path.as_str(), Links::Follow)
    } else {
        paths::resolve_itself(root, path.as_str())
    };
    let source = source.at("openat2", path.as_str())?;
    if !follow {
        refuse_link(source.as_fd(), path)?;
    }
    let recursive = if recursive { sys::AT_RECURSIVE } else { 0 };
    let flags = sys::OPEN_TREE_CLONE | sys::AT_EMPTY_PATH | recursive;
    let tree = sys::open_tree(source.as_fd(), c"", flags).at("open_tree", path.as_str())?;
    executor.slots.set(slot.as_str(), tree);
    Ok(())
}

fn refuse_link(tree: BorrowedFd, path: &Text) -> Outcome {
    let mode = sys::fstat(tree).at("fstat", path.as_str())?.st_mode;
    if mode & libc::S_IFMT != libc::S_IFLNK {
        return Ok(());
    }
    Err(Errno(libc::ELOOP)).at("open_tree", path.as_str())
}

pub fn open_null(executor: &mut Executor, slot: &Text) -> Outcome {
    let tree = clone_device(c"/dev/null", libc::S_IFCHR, (1, 3))?;
    keep_tree(executor, slot, tree);
    Ok(())
}

pub fn open_device(
    executor: &mut Executor,
    slot: &Text,
    path: &Text,
    kind: &Text,
    numbers: (u32, u32),
) -> Outcome {
    let kind = device_kind(kind, path.as_str())?;
    let tree = clone_device(path.as_c(), kind, numbers)?;
    keep_tree(executor, slot, tree);
    Ok(())
}

/// A detached copy of a device node of the host, once it is certain that it is that device.
fn clone_device(path: &CStr, kind: u32, (major, minor): (u32, u32)) -> Outcome<OwnedFd> {
    let name = path.to_str().unwrap_or("");
    let tree = sys::open_tree(sys::borrow(libc::AT_FDCWD), path, sys::OPEN_TREE_CLONE)
        .at("open_tree", name)?;
    let stat = sys::fstat(tree.as_fd()).at("fstat", name)?;
    if stat.st_mode & libc::S_IFMT == kind && stat.st_rdev == libc::makedev(major, minor) {
        return Ok(tree);
    }
    let kind = if kind == libc::S_IFBLK { 'b' } else { 'c' };
    let text = format!("is not the device {kind} {major}:{minor}");
    Err(Failure::new("fstat", name, libc::ENODEV, text))
}

fn keep_tree(executor: &mut Executor, slot: &Text, tree: OwnedFd) {
    executor.slots.set(slot.as_str(), tree);
    executor.trees.push(slot.as_str().to_string());
}

pub fn set_attributes(
    executor: &Executor,
    slot: &Text,
    attr: &MountAttr,
    recursive: bool,
) -> Outcome {
    let mount = executor.slots.get(slot.as_str())?;
    sys::mount_setattr(mount, recursive, attr).at("mount_setattr", slot.as_str())
}

/// Where the user namespace of an id map comes from.
pub enum MapSource<'a> {
    Maps(&'a [IdMap], &'a [IdMap]),
    /// A namespace file of the host.
    Path(&'a Text),
}

impl<'a> MapSource<'a> {
    pub fn of(uids: &'a [IdMap], gids: &'a [IdMap], namespace: Option<&'a Text>) -> MapSource<'a> {
        match namespace {
            Some(path) => MapSource::Path(path),
            None => MapSource::Maps(uids, gids),
        }
    }
}

pub fn id_map_mount(
    executor: &mut Executor,
    slot: &Text,
    source: MapSource,
    recursive: bool,
) -> Outcome {
    match source {
        MapSource::Path(path) => {
            let namespace = open_namespace(libc::CLONE_NEWUSER, path)?;
            set_id_map(executor, slot, namespace.as_fd(), recursive)
        }
        MapSource::Maps(uids, gids) => {
            let index = map_namespace(executor, uids, gids)?;
            let namespace = executor.mapped[index].2.as_fd();
            set_id_map(executor, slot, namespace, recursive)
        }
    }
}

/// Open the user namespace of an id map for `request_id_map`: maps can be written only while /proc numbers us rightly.
pub fn open_id_map(executor: &mut Executor, slot: &Text, source: MapSource) -> Outcome {
    let namespace = match source {
        MapSource::Path(path) => open_namespace(libc::CLONE_NEWUSER, path)?,
        MapSource::Maps(uids, gids) => mapping_namespace(uids, gids)?,
    };
    executor.slots.set(slot.as_str(), namespace);
    Ok(())
}

/// Have the caller map a detached mount: it has privileges over the file system that a user namespace takes from us.
pub fn request_id_map(
    executor: &mut Executor,
    slot: &Text,
    map_slot: &Text,
    recursive: bool,
) -> Outcome {
    let namespace = executor.slots.get(map_slot.as_str())?;
    let mount = executor.slots.get(slot.as_str())?;
    let report = &executor.report;
    report
        .send_descriptor("id_map", namespace)
        .and_then(|()| report.send_descriptor("mount", mount))
        .at("sendmsg", slot.as_str())?;
    let stop = if recursive {
        "id_map_tree"
    } else {
        "id_map_mount"
    };
    report.ask(&serde_json::json!({ "stop": stop }));
    executor.slots.take(map_slot.as_str());
    Ok(())
}

/// The user namespace with these maps, made the first time they are asked for: its place in `executor.mapped`.
fn map_namespace(executor: &mut Executor, uids: &[IdMap], gids: &[IdMap]) -> Outcome<usize> {
    let mut made = executor.mapped.iter();
    if let Some(index) = made.position(|(u, g, _)| u.as_slice() == uids && g.as_slice() == gids) {
        return Ok(index);
    }
    let namespace = mapping_namespace(uids, gids)?;
    executor
        .mapped
        .push((uids.to_vec(), gids.to_vec(), namespace));
    Ok(executor.mapped.len() - 1)
}

fn set_id_map(executor: &Executor, slot: &Text, namespace: BorrowedFd, recursive: bool) -> Outcome {
    let attr = MountAttr {
        set: sys::MOUNT_ATTR_IDMAP,
        userns: namespace.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    set_attributes(executor, slot, &attr, recursive)
}

/// A mount to attach: the slot's own the first time, a copy of it after that.
fn mount_of(executor: &mut Executor, slot: &str) -> Outcome<OwnedFd> {
    let mount = executor.slots.get(slot)?;
    if executor.attached.contains(slot) {
        return copy_of(mount).at("open_tree", slot);
    }
    let mount = mount.try_clone_to_owned();
    let mount = mount.map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EMFILE)));
    executor.attached.insert(slot.to_string());
    mount.at("dup", slot)
}

fn copy_of(mount: BorrowedFd) -> sys::Result<OwnedFd> {
    let flags = sys::OPEN_TREE_CLONE | sys::AT_EMPTY_PATH | sys::AT_RECURSIVE;
    sys::open_tree(mount, c"", flags)
}

pub fn mount_bind(
    executor: &mut Executor,
    slot: &Text,
    destination: &Text,
    on_proc: bool,
    follow: bool,
) -> Outcome {
    let path = destination.as_str();
    let mount = mount_of(executor, slot.as_str())?;
    let make = kind_of(mount.as_fd()).at("fstat", slot.as_str())?;
    let root = executor.slots.get("root")?;
    let target = paths::resolve_or_make(root, path, Links::of(follow), make, 0o755)?;
    if !on_proc {
        refuse_proc(target.as_fd(), path)?;
    }
    sys::move_mount(mount.as_fd(), target.as_fd()).at("move_mount", path)
}

pub fn kind_of(mount: BorrowedFd) -> sys::Result<Make> {
    let mode = sys::fstat(mount)?.st_mode;
    Ok(if mode & libc::S_IFMT == libc::S_IFDIR {
        Make::Directory
    } else {
        Make::File
    })
}

/// Nothing but what the plan names may be mounted inside /proc (CVE-2019-16884).
fn refuse_proc(target: BorrowedFd, path: &str) -> Outcome {
    if sys::filesystem(target).at("fstatfs", path)? != sys::PROC_SUPER_MAGIC {
        return Ok(());
    }
    let text = format!("{path:?} cannot be mounted because it is inside /proc");
    Err(Failure::new("fstatfs", path, libc::EPERM, text))
}

/// The same for a file system: only procfs itself may lie over procfs, and only over the whole of it. The destination
/// may have got there through a link of the image.
fn refuse_inside_proc(target: BorrowedFd, kind: &Text, path: &str) -> Outcome {
    const PROC_ROOT_INO: u64 = 1;
    if kind.as_str() == "proc" && sys::fstat(target).at("fstat", path)?.st_ino == PROC_ROOT_INO {
        return Ok(());
    }
    refuse_proc(target, path)
}

/// The arguments of `mount_filesystem`, borrowed from the plan.
struct Filesystem<'a> {
    kind: &'a Text,
    source: Option<&'a Text>,
    destination: &'a str,
    options: &'a [(Text, Option<Text>)],
    attributes: u64,
    copy_up: bool,
}

pub fn mount_filesystem(executor: &mut Executor, operation: &Operation) -> Outcome {
    let Operation::MountFilesystem {
        kind,
        source,
        destination,
        options,
        attributes,
        propagation,
        recursive_set,
        recursive_clear,
        follow,
        copy_up,
        legacy_flags,
        legacy_data,
        keep_mode,
    } = operation
    else {
        unreachable!("mount_filesystem is for the operation of that name");
    };
    let path = destination.as_str();
    let links = Links::of(*follow);
    let root = executor.slots.get("root")?;
    let keep_mode = *keep_mode && paths::resolve(root, path, links).is_ok();
    let target = paths::resolve_or_make(root, path, links, Make::Directory, 0o755)
        .map_err(|failure| not_through_links(failure, links))?;
    let target = target.as_fd();
    if !follow {
        demand_directory(target, path)?;
    }
    refuse_inside_proc(target, kind, path)?;
    let attr = self::attributes(*recursive_set, *recursive_clear, *propagation);
    if let Some(flags) = legacy_flags {
        mount_legacy(kind, source.as_ref(), target, *flags, legacy_data.as_ref())
            .at("mount", path)?;
        // The new mount covers what `target` is: find it.
        let mount = paths::resolve(root, path, links).at("openat2", path)?;
        return apply(mount.as_fd(), &attr, path);
    }
    let filesystem = Filesystem {
        kind,
        source: source.as_ref(),
        destination: path,
        options,
        attributes: *attributes,
        copy_up: *copy_up,
    };
    let mount = make_filesystem(&filesystem, target, keep_mode)?;
    apply(mount.as_fd(), &attr, path)?;
    sys::move_mount(mount.as_fd(), target).at("move_mount", path)
}

fn apply(mount: BorrowedFd, attr: &MountAttr, path: &str) -> Outcome {
    if is_empty(attr) {
        return Ok(());
    }
    sys::mount_setattr(mount, true, attr).at("mount_setattr", path)
}

const NO_DIRECTORY: &str = "must be mounted on ordinary directory";

/// Say what a link on the way means where none may be.
fn not_through_links(mut failure: Failure, links: Links) -> Failure {
    if links == Links::Refuse && failure.errno == libc::ELOOP {
        failure.text = NO_DIRECTORY.to_string();
    }
    failure
}

fn demand_directory(target: BorrowedFd, path: &str) -> Outcome {
    let mode = sys::fstat(target).at("fstat", path)?.st_mode;
    if mode & libc::S_IFMT == libc::S_IFDIR {
        return Ok(());
    }
    Err(Failure::new("fstat", path, libc::ENOTDIR, NO_DIRECTORY))
}

fn make_filesystem(
    filesystem: &Filesystem,
    target: BorrowedFd,
    keep_mode: bool,
) -> Outcome<OwnedFd> {
    let context = sys::fsopen(filesystem.kind.as_c()).at("fsopen", filesystem.kind.as_str())?;
    configure(filesystem, context.as_fd(), target, keep_mode)
        .and_then(|()| sys::fsconfig_create(context.as_fd()).at("fsconfig", filesystem.destination))
        .map_err(|failure| explain(failure, context.as_fd()))?;
    // While files are copied in, the mount cannot be read-only.
    let held_back = if filesystem.copy_up {
        filesystem.attributes & sys::MOUNT_ATTR_RDONLY
    } else {
        0
    };
    let mount = sys::fsmount(context.as_fd(), filesystem.attributes & !held_back)
        .at("fsmount", filesystem.destination)
        .map_err(|failure| explain(failure, context.as_fd()))?;
    if filesystem.copy_up {
        copy_up::copy_tree(target, mount.as_fd(), filesystem.destination)?;
        apply(
            mount.as_fd(),
            &attributes(held_back, 0, 0),
            filesystem.destination,
        )?;
    }
    Ok(mount)
}

fn configure(
    filesystem: &Filesystem,
    context: BorrowedFd,
    target: BorrowedFd,
    keep_mode: bool,
) -> Outcome {
    if let Some(source) = filesystem.source {
        sys::fsconfig_set(context, c"source", Some(source.as_c()))
            .at("fsconfig", source.as_str())?;
    }
    for (key, value) in filesystem.options {
        let value = value.as_ref().map(Text::as_c);
        sys::fsconfig_set(context, key.as_c(), value).at("fsconfig", key.as_str())?;
    }
    let has_mode = || {
        let mut keys = filesystem.options.iter().map(|(key, _)| key.as_str());
        keys.any(|key| key == "mode")
    };
    // As under runc, a tmpfs takes on the mode of the directory that it covers.
    if keep_mode && !has_mode() {
        let mode = sys::fstat(target)
            .at("fstat", filesystem.destination)?
            .st_mode;
        let mode = CString::new(format!("{:o}", mode & 0o7777)).unwrap_or_default();
        sys::fsconfig_set(context, c"mode", Some(&mode)).at("fsconfig", "mode")?;
    }
    Ok(())
}

/// Add what the file system wrote into its context's log to the failure's text.
fn explain(mut failure: Failure, context: BorrowedFd) -> Failure {
    let mut buffer = [0u8; 1024];
    while let Ok(length) = sys::read(context, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..length]);
        let line = line.trim_end();
        // "e ", "w " and "i " say how bad it is.
        failure.text = format!("{}: {}", failure.text, line.get(2..).unwrap_or(line));
        if length == 0 {
            break;
        }
    }
    failure
}

/// mount(2) on the directory `target`: as the working directory it needs no path.
fn mount_legacy(
    kind: &Text,
    source: Option<&Text>,
    target: BorrowedFd,
    flags: u64,
    data: Option<&Text>,
) -> sys::Result<()> {
    sys::fchdir(target)?;
    let kind = (!kind.as_str().is_empty()).then(|| kind.as_c());
    let (source, data) = (source.map(Text::as_c), data.map(Text::as_c));
    let mounted = sys::mount(source, c".", kind, flags, data);
    sys::chdir(c"/")?;
    mounted
}

pub fn remount(
    executor: &Executor,
    destination: &Text,
    attr: &MountAttr,
    recursive: bool,
) -> Outcome {
    let path = destination.as_str();
    let root = executor.slots.get("root")?;
    let mount = paths::resolve(root, path, Links::Follow).at("openat2", path)?;
    sys::mount_setattr(mount.as_fd(), recursive, attr).at("mount_setattr", path)
}

pub fn readonly_path(executor: &Executor, path: &Text) -> Outcome {
    let path = path.as_str();
    let root = executor.slots.get("root")?;
    let Some(target) = paths::resolve_existing(root, path)? else {
        return Ok(());
    };
    let attr = attributes(sys::MOUNT_ATTR_RDONLY, 0, 0);
    if is_same(root, target.as_fd()).at("fstat", path)? {
        // What is attached over the root is seen by nobody whose root it is: the root itself becomes read-only.
        return sys::mount_setattr(target.as_fd(), false, &attr).at("mount_setattr", path);
    }
    let mount = copy_of(target.as_fd()).at("open_tree", path)?;
    sys::mount_setattr(mount.as_fd(), true, &attr).at("mount_setattr", path)?;
    sys::move_mount(mount.as_fd(), target.as_fd()).at("move_mount", path)
}

fn is_same(one: BorrowedFd, other: BorrowedFd) -> sys::Result<bool> {
    let (one, other) = (sys::fstat(one)?, sys::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

pub fn mask_path(executor: &mut Executor, path: &Text) -> Outcome {
    let path = path.as_str();
    let root = executor.slots.get("root")?;
    let Some(target) = paths::resolve_existing(root, path)? else {
        return Ok(());
    };
    if is_same(root, target.as_fd()).at("fstat", path)? {
        let text = "the container's root cannot be masked";
        return Err(Failure::new("mask", path, libc::EINVAL, text));
    }
    let mount = match kind_of(target.as_fd()).at("fstat", path)? {
        Make::File => mount_of(executor, "null")?,
        Make::Directory => empty_directory(executor)?,
    };
    sys::move_mount(mount.as_fd(), target.as_fd()).at("move_mount", path)
}

/// A read-only tmpfs that holds nothing: made once, copied after that.
fn empty_directory(executor: &mut Executor) -> Outcome<OwnedFd> {
    const SLOT: &str = "empty";
    if executor.slots.get(SLOT).is_err() {
        let mount = make_empty().at("fsmount", "tmpfs")?;
        executor.slots.set(SLOT, mount);
    }
    mount_of(executor, SLOT)
}

/// A tmpfs, attached nowhere, for mounts that are on their way.
pub fn private_tmpfs() -> sys::Result<OwnedFd> {
    let context = sys::fsopen(c"tmpfs")?;
    sys::fsconfig_set(context.as_fd(), c"mode", Some(c"755"))?;
    sys::fsconfig_create(context.as_fd())?;
    const ATTRIBUTES: u64 = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
    sys::fsmount(context.as_fd(), ATTRIBUTES)
}

fn make_empty() -> sys::Result<OwnedFd> {
    let context = sys::fsopen(c"tmpfs")?;
    for key in [c"nr_blocks", c"nr_inodes"] {
        sys::fsconfig_set(context.as_fd(), key, Some(c"1"))?;
    }
    sys::fsconfig_set(context.as_fd(), c"source", Some(c"tmpfs"))?;
    sys::fsconfig_set(context.as_fd(), c"mode", Some(c"755"))?;
    sys::fsconfig_create(context.as_fd())?;
    const ATTRIBUTES: u64 = sys::MOUNT_ATTR_RDONLY
        | sys::MOUNT_ATTR_NOSUID
        | sys::MOUNT_ATTR_NODEV
        | sys::MOUNT_ATTR_NOEXEC;
    sys::fsmount(context.as_fd(), ATTRIBUTES)
}
