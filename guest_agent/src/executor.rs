//! Carry a plan out: what the operations share, and which function each of them is.

use crate::ops;
use crate::plan::{IdMap, Operation, Plan, Text};
use crate::report::{Failure, Outcome, Report};
use crate::slots::Slots;
use crate::sys;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

/// What a process of the executor knows.
pub struct Executor {
    pub plan: Plan,
    pub slots: Slots,
    pub report: Report,
    /// Slots whose mount is attached already: the next use takes a copy.
    pub attached: BTreeSet<String>,
    /// Slots of mounts of the host, in the order in which they were opened.
    pub trees: Vec<String>,
    /// User namespaces that `id_map_mount` made, by their maps.
    pub mapped: Vec<(Vec<IdMap>, Vec<IdMap>, OwnedFd)>,
    /// Where the last operation made a device or a link, if it did: the path in the container and the directory.
    pub directory: Option<(String, OwnedFd)>,
    /// Namespace files of consecutive `join` operations, opened before the first of them was joined.
    pub joins: Vec<(i32, OwnedFd)>,
    /// The kinds of namespaces made before there was a plan that `unshare` has not come to, as `CLONE_NEW*` flags.
    pub early: i32,
    /// The kinds of namespaces that `unshare` made.
    pub made: i32,
    /// /proc/self/timens_offsets, opened before a user namespace could hide it.
    pub time_offsets: Option<OwnedFd>,
    /// Whether the rootfs lies over "/" of the mount namespace, not at a path of its own.
    pub root_on_top: bool,
    pub parent_death_signal: i32,
    /// A working directory that root could not enter: `credentials` tries again.
    pub pending_directory: Option<Text>,
    /// What `find_program` found.
    pub program: Option<Text>,
    /// What `home` found, as the environment holds it: `HOME=/root`.
    pub home: Option<Text>,
    /// The umask this process was started with, given back where the plan sets none.
    pub umask: u32,
    pub index: usize,
    /// Under `trace`: which operations have begun since the last report, and when.
    pub begun: Vec<(usize, &'static str, u64)>,
}

/// What was done before there was a plan.
#[derive(Default)]
pub struct Start {
    /// The kinds of namespaces that are made, as `CLONE_NEW*` flags.
    pub made: i32,
    steps: Vec<(usize, &'static str, u64)>,
}

impl Start {
    /// Note that a step begins.
    pub fn note(&mut self, name: &'static str) {
        self.steps.push((0, name, sys::monotonic()));
    }
}

impl Executor {
    pub fn new(plan: Plan, slots: Slots, report: Report, start: Start) -> Executor {
        let begun = match plan.trace {
            true => start.steps,
            false => Vec::new(),
        };
        Executor {
            plan,
            slots,
            report,
            attached: BTreeSet::new(),
            trees: Vec::new(),
            mapped: Vec::new(),
            directory: None,
            joins: Vec::new(),
            early: start.made,
            made: 0,
            time_offsets: None,
            root_on_top: false,
            parent_death_signal: 0,
            pending_directory: None,
            program: None,
            home: None,
            umask: sys::umask(0),
            index: 0,
            begun,
        }
    }

    /// Carry out every operation. The program's execution ends it well, an operation that fails with exit code 1.
    pub fn run(mut self) -> ! {
        let operations = std::mem::take(&mut self.plan.operations);
        let prepared = ops::namespaces::check_early(self.early, &operations)
            .and_then(|()| ops::namespaces::open_time_offsets(&mut self, &operations))
            .and_then(|()| ops::process::confine_cgroup(&mut self, &operations));
        let outcome = prepared.and_then(|()| self.run_all(&operations));
        let name = operations.get(self.index).map_or("plan", Operation::name);
        let failure = match outcome {
            Ok(()) => Failure::new("execve", "", libc::ENOEXEC, "the plan executes no program"),
            Err(failure) => failure,
        };
        self.report.steps(&self.begun);
        if let Some(Operation::Execute { .. }) = operations.get(self.index) {
            // The container has started, as under runc: that its program did not is for whoever reads its stderr.
            ops::process::tell_stderr(&failure);
        }
        self.report.error(self.index, name, &failure);
        sys::exit(1)
    }

    fn run_all(&mut self, operations: &[Operation]) -> Outcome {
        for (index, operation) in operations.iter().enumerate() {
            self.index = index;
            if self.plan.trace {
                self.trace(index, operation);
            }
            if !matches!(
                operation,
                Operation::MakeDevice { .. } | Operation::MakeLink { .. }
            ) {
                self.directory = None;
            }
            self.run_one(operation, &operations[index..])?;
        }
        Ok(())
    }

    /// Note when an operation begins. The notes are sent where the caller's turn comes: a datagram for each would cost
    /// more than most operations do.
    fn trace(&mut self, index: usize, operation: &Operation) {
        use Operation as O;
        self.begun.push((index, operation.name(), sys::monotonic()));
        if let O::Stop { .. } | O::WaitStart {} | O::Execute { .. } = operation {
            self.report.steps(&std::mem::take(&mut self.begun));
        }
    }

    /// Carry out one operation; `rest` is it and what follows.
    fn run_one(&mut self, operation: &Operation, rest: &[Operation]) -> Outcome {
        use ops::{
            console, credentials, devices, hooks, mounts, namespaces, process, procfs, root,
            staging,
        };
        use Operation as O;
        match operation {
            O::ParentDeathSignal { signal } => process::parent_death_signal(self, *signal),
            O::OomScoreAdj { value } => procfs::oom_score_adj(*value),
            O::Dumpable { value } => process::dumpable(*value),
            O::OpenTree {
                slot,
                path,
                recursive,
                follow,
                inside: false,
            } => mounts::open_tree(self, slot, path, *recursive, *follow),
            O::OpenTree {
                slot,
                path,
                recursive,
                follow,
                inside: true,
            } => mounts::open_tree_inside(self, slot, path, *recursive, *follow),
            O::OpenNull { slot } => mounts::open_null(self, slot),
            O::OpenDevice {
                slot,
                path,
                kind,
                major,
                minor,
            } => mounts::open_device(self, slot, path, kind, (*major, *minor)),
            O::SetAttributes {
                slot,
                set,
                clear,
                propagation,
                recursive,
            } => {
                let attr = mounts::attributes(*set, *clear, *propagation);
                mounts::set_attributes(self, slot, &attr, *recursive)
            }
            O::IdMapMount {
                slot,
                uid_maps,
                gid_maps,
                recursive,
                namespace,
            } => {
                let source = mounts::MapSource::of(uid_maps, gid_maps, namespace.as_ref());
                mounts::id_map_mount(self, slot, source, *recursive)
            }
            O::OpenIdMap {
                slot,
                uid_maps,
                gid_maps,
                namespace,
            } => {
                let source = mounts::MapSource::of(uid_maps, gid_maps, namespace.as_ref());
                mounts::open_id_map(self, slot, source)
            }
            O::RequestIdMap {
                slot,
                map_slot,
                recursive,
            } => mounts::request_id_map(self, slot, map_slot, *recursive),
            O::StageMounts { path } => staging::stage_mounts(self, path),
            O::TakeMounts {} => staging::take_mounts(self),
            O::Join { kind, path } => namespaces::join(self, kind, path, rest),
            O::JoinProcess { kinds } => namespaces::join_process(self, kinds),
            O::Unshare { kinds } => namespaces::unshare(self, kinds),
            O::Stop { name } => process::stop(self, name),
            O::BecomeRoot {} => namespaces::become_root(),
            O::TimeOffsets { offsets } => namespaces::time_offsets(self, offsets),
            O::EnterCgroups { slots } => process::enter_cgroups(self, slots),
            O::Clone { into_cgroup } => process::clone(self, *into_cgroup),
            O::NewSession {} => process::new_session(),
            O::Keyring { name, permission } => process::keyring(name, *permission),
            O::Loopback {} => namespaces::loopback(),
            O::RootPropagation { flags } => root::root_propagation(*flags),
            O::AttachRoot { slot, path } => root::attach_root(self, slot, path.as_ref()),
            O::OpenRoot { path } => root::open_root(self, path),
            O::UseRoot {} => root::use_root(self),
            O::OpenProc {} => procfs::open_proc(self),
            O::MountBind {
                slot,
                destination,
                on_proc,
                follow,
            } => mounts::mount_bind(self, slot, destination, *on_proc, *follow),
            O::MountFilesystem { .. } => mounts::mount_filesystem(self, operation),
            O::Remount {
                destination,
                set,
                clear,
                propagation,
                recursive,
            } => {
                let attr = mounts::attributes(*set, *clear, *propagation);
                mounts::remount(self, destination, &attr, *recursive)
            }
            O::MakeDevice {
                path,
                kind,
                major,
                minor,
                mode,
                uid,
                gid,
            } => devices::make_device(self, path, kind, (*major, *minor), *mode, (*uid, *gid)),
            O::MakeLink {
                path,
                target,
                replace,
            } => devices::make_link(self, path, target, *replace),
            O::MakeDirectory { path, mode } => devices::make_directory(self, path, *mode),
            O::RunHooks { kind, hooks, state } => hooks::run_hooks(self, kind, hooks, state),
            O::PivotRoot {} => root::pivot_root(self),
            O::MoveRoot {} => root::move_root(self),
            O::ChangeRoot {} => root::change_root(self),
            O::Console {
                width,
                height,
                bind,
                uid,
                plain_newlines,
            } => console::console(self, (*width, *height), *bind, *uid, *plain_newlines),
            O::OwnStdio { uid } => console::own_stdio(*uid),
            O::Hostname { name } => namespaces::hostname(name),
            O::Domainname { name } => namespaces::domainname(name),
            O::Sysctl { key, value } => procfs::sysctl(self, key, value),
            O::ReadonlyPath { path } => mounts::readonly_path(self, path),
            O::MaskPath { path } => mounts::mask_path(self, path),
            O::Umask { value } => process::umask(self, *value),
            O::NoNewPrivileges {} => process::no_new_privileges(),
            O::Apparmor { profile } => procfs::apparmor(self, profile),
            O::Selinux { label } => procfs::selinux(self, label),
            O::Scheduler { .. } => process::scheduler(operation),
            O::IoPriority { value } => process::io_priority(*value),
            O::Personality { value } => process::personality(*value),
            O::MemoryPolicy { mode, nodes } => process::memory_policy(*mode, nodes),
            O::CpuAffinity { cpus } => process::cpu_affinity(cpus),
            O::Rlimit {
                resource,
                soft,
                hard,
            } => process::rlimit(*resource, *soft, *hard),
            O::Home { uid } => process::home(self, *uid),
            O::FindProgram { name, path, cwd } => process::find_program(self, name, path, cwd),
            O::Seccomp {
                program,
                flags,
                listener,
            } => process::seccomp(self, &program.0, *flags, *listener),
            O::ChangeDirectory { path } => credentials::change_directory(self, path),
            O::Credentials { .. } => credentials::credentials(self, operation),
            O::WaitStart {} => process::wait_start(self),
            O::CloseDescriptors { preserve } => process::close_descriptors(self, *preserve),
            O::Execute { args, env } => process::execute(self, args, env),
        }
    }
}
