//! Who the process is, what it may do, and where it stands.

use crate::executor::Executor;
use crate::ops::paths::{self, Links};
use crate::plan::{Operation, Text};
use crate::report::{Context, Failure, Outcome};
use crate::sys::{self, Errno};
use std::os::fd::AsFd;

pub fn change_directory(executor: &mut Executor, path: &Text) -> Outcome {
    match enter(executor, path) {
        // Root may be nobody on a network file system: the user may yet be let in.
        Err(failure) if failure.errno == libc::EACCES => {
            executor.pending_directory = Some(path.clone());
            Ok(())
        }
        result => result,
    }
}

/// Go there through a descriptor resolved below the root, so that no magic link leads out of it.
fn enter(executor: &Executor, path: &Text) -> Outcome {
    let root = executor.slots.get("root")?;
    let directory =
        paths::resolve(root, path.as_str(), Links::Follow).at("chdir", path.as_str())?;
    sys::fchdir(directory.as_fd()).at("chdir", path.as_str())?;
    verify_inside(path.as_str())
}

/// A directory that the root does not reach is the host's (CVE-2024-21626).
fn verify_inside(path: &str) -> Outcome {
    let outside = |errno| {
        let text = "current working directory is outside of container mount namespace root \
                    -- possible container breakout detected";
        Failure::new("getcwd", path, errno, text)
    };
    match sys::getcwd() {
        Ok(cwd) if cwd.starts_with(b"/") => Ok(()),
        Ok(_) => Err(outside(libc::ENOENT)),
        Err(errno) => Err(outside(errno.0)),
    }
}

pub fn credentials(executor: &mut Executor, operation: &Operation) -> Outcome {
    let Operation::Credentials {
        uid,
        gid,
        groups,
        bounding,
        effective,
        permitted,
        inheritable,
        ambient,
    } = operation
    else {
        unreachable!("credentials is for the operation of that name");
    };
    drop_bounding(*bounding)?;
    sys::set_keep_capabilities(true).at("prctl", "PR_SET_KEEPCAPS")?;
    become_user(*uid, *gid, groups.as_deref())?;
    if let Some(directory) = executor.pending_directory.take() {
        enter(executor, &directory)?;
    }
    sys::set_keep_capabilities(false).at("prctl", "PR_SET_KEEPCAPS")?;
    sys::capset(*effective, *permitted, *inheritable).at("capset", "")?;
    set_ambient(*ambient)?;
    // The kernel forgot it when the ids changed.
    if executor.parent_death_signal != 0 {
        sys::set_parent_death_signal(executor.parent_death_signal)
            .at("prctl", "PR_SET_PDEATHSIG")?;
    }
    Ok(())
}

/// Drop from the bounding set all that this kernel knows and the mask does not hold.
fn drop_bounding(kept: u64) -> Outcome {
    for capability in (0..64).filter(|capability| kept >> capability & 1 == 0) {
        let Err(errno) = sys::bounding_drop(capability) else {
            continue;
        };
        match sys::bounding_has(capability) {
            // Whoever may drop none need not drop what is not there.
            Ok(false) => {}
            Err(Errno(libc::EINVAL)) => break,
            _ => return Err(errno).at("prctl", "PR_CAPBSET_DROP"),
        }
    }
    Ok(())
}

fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> Outcome {
    if let Some(groups) = groups {
        sys::setgroups(groups).at("setgroups", "")?;
    }
    sys::setresgid(gid).at("setresgid", &gid.to_string())?;
    sys::setresuid(uid).at("setresuid", &uid.to_string())?;
    // -1 means "leave it" to the kernel: whoever asks for it stays root.
    if sys::identities().at("getresuid", "")? != ([uid; 3], [gid; 3]) {
        let text = "the process did not become the user asked for";
        return Err(Failure::new(
            "getresuid",
            &uid.to_string(),
            libc::EPERM,
            text,
        ));
    }
    Ok(())
}

fn set_ambient(mask: u64) -> Outcome {
    sys::ambient_clear().at("prctl", "PR_CAP_AMBIENT_CLEAR_ALL")?;
    for capability in (0..64).filter(|capability| mask >> capability & 1 == 1) {
        sys::ambient_raise(capability)
            .at("prctl", &format!("PR_CAP_AMBIENT_RAISE {capability}"))?;
    }
    Ok(())
}
