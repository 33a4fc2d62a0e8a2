//! Users and groups, by name or number, as gunicorn's `--user` and `--group` take them.

use std::{ffi::CString, io, mem::MaybeUninit, ptr};

use serde::{Deserialize, Serialize};

/// Who a program runs as. Every number is what the kernel sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups; the whole list, nothing is inherited.
    pub groups: Vec<u32>,
}

/// An entry of the password database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Who server and apps run as when root starts `ostler serve` and names nobody, if there is such an account.
const USUAL: &str = "ostler";

/// Longest password or group entry read (a group with thousands of members is long).
const ENTRY_MAX: usize = 1024 * 1024;

/// Most supplementary groups Linux allows (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// This process's own user.
pub fn own() -> User {
    let groups = rustix::process::getgroups().unwrap_or_default();
    User {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: groups.into_iter().map(|group| group.as_raw()).collect(),
    }
}

/// The account made for us, which takes the place of root.
pub fn usual() -> Option<User> {
    let is_root = rustix::process::geteuid().is_root();
    is_root.then(|| find_user(USUAL).ok()).flatten()
}

/// The user a name or number means, with the groups the system's database gives it. A number
/// without an entry is taken as it is, with the gid of this process, as gunicorn does.
///
/// # Errors
/// `NotFound` when a name is not in the database.
pub fn find_user(text: &str) -> io::Result<User> {
    let account = match text.parse::<u32>() {
        Ok(uid) => account_by_uid(uid)?,
        Err(_) => match account_by_name(text)? {
            Some(account) => Some(account),
            None => return Err(not_found("user", text)),
        },
    };
    let Some(account) = account else {
        let uid = text.parse().expect("only a number reaches this");
        let gid = rustix::process::getegid().as_raw();
        return Ok(User {
            uid,
            gid,
            groups: vec![gid],
        });
    };
    let groups = groups_of(&account)?;
    Ok(User {
        uid: account.uid,
        gid: account.gid,
        groups,
    })
}

/// The gid that a group's name or number means.
///
/// # Errors
/// `NotFound` when a name is not in the database.
pub fn find_group(text: &str) -> io::Result<u32> {
    if let Ok(gid) = text.parse() {
        return Ok(gid);
    }
    let name = c_string(text)?;
    let found = with_buffer(|buffer| {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut result = ptr::null_mut();
        // SAFETY: every pointer is valid for the call, the buffer's length is its own; on success
        // `result` points to `entry`, which is then initialised.
        unsafe {
            let errno = libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut result,
            );
            (
                errno,
                (!result.is_null()).then(|| entry.assume_init_ref().gr_gid),
            )
        }
    })?;
    found.ok_or_else(|| not_found("group", text))
}

/// The account with this name.
pub fn account_by_name(name: &str) -> io::Result<Option<Account>> {
    let name = c_string(name)?;
    // SAFETY: as `account` asks: getpwnam_r fills the entry from the buffer it is given.
    account(|entry, buffer, result| unsafe {
        let (text, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        libc::getpwnam_r(name.as_ptr(), entry, text, len, result)
    })
}

/// The account with this uid.
pub fn account_by_uid(uid: u32) -> io::Result<Option<Account>> {
    // SAFETY: as `account` asks: getpwuid_r fills the entry from the buffer it is given.
    account(|entry, buffer, result| unsafe {
        libc::getpwuid_r(uid, entry, buffer.as_mut_ptr().cast(), buffer.len(), result)
    })
}

type Lookup<'a> = dyn Fn(*mut libc::passwd, &mut [u8], *mut *mut libc::passwd) -> libc::c_int + 'a;

fn account<F>(lookup: F) -> io::Result<Option<Account>>
where
    F: Fn(*mut libc::passwd, &mut [u8], *mut *mut libc::passwd) -> libc::c_int,
{
    let lookup: &Lookup<'_> = &lookup;
    with_buffer(|buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut result = ptr::null_mut();
        let errno = lookup(entry.as_mut_ptr(), buffer, &mut result);
        if result.is_null() {
            return (errno, None);
        }
        // SAFETY: a result that is not null points to `entry`, initialised, whose name is a C
        // string inside `buffer`, which is alive here.
        let (name, entry) = unsafe {
            let entry = entry.assume_init_ref();
            (std::ffi::CStr::from_ptr(entry.pw_name), entry)
        };
        let name = name.to_string_lossy().into_owned();
        (
            errno,
            Some(Account {
                name,
                uid: entry.pw_uid,
                gid: entry.pw_gid,
            }),
        )
    })
}

/// Calls a `get…_r` function with a buffer that grows until the entry fits.
fn with_buffer<T>(
    mut lookup: impl FnMut(&mut [u8]) -> (libc::c_int, Option<T>),
) -> io::Result<Option<T>> {
    let mut size = 1024;
    loop {
        let mut buffer = vec![0_u8; size];
        match lookup(&mut buffer) {
            (0, found) => return Ok(found),
            (libc::ERANGE, _) if size < ENTRY_MAX => size *= 4,
            (libc::EINTR, _) => {}
            // What "no such name" looks like depends on the name service: see getpwnam(3).
            (libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, _) => return Ok(None),
            (errno, _) => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn groups_of(account: &Account) -> io::Result<Vec<u32>> {
    let name = c_string(&account.name)?;
    let mut groups = vec![0; 64];
    loop {
        let mut count = i32::try_from(groups.len()).expect("at most GROUPS_MAX");
        // SAFETY: `groups` has room for `count` ids and `name` is a C string.
        let fits = unsafe {
            libc::getgrouplist(name.as_ptr(), account.gid, groups.as_mut_ptr(), &mut count)
        };
        if fits >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return Ok(groups);
        }
        if groups.len() >= GROUPS_MAX {
            return Err(io::Error::other(format!(
                "user {} has too many groups",
                account.name
            )));
        }
        groups.resize(groups.len() * 4, 0);
    }
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL in a name"))
}

fn not_found(kind: &str, text: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("no {kind} {text:?} on this machine"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        let root = find_user("root").expect("root is everywhere");
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(find_user("0").expect("by number").uid, 0);
        assert_eq!(find_group("root").expect("group"), 0);
        assert_eq!(find_group("4711").expect("number"), 4711);
    }

    #[test]
    fn a_number_without_an_entry_is_taken_as_it_is() {
        assert_eq!(find_user("987654").expect("number").uid, 987_654);
    }

    #[test]
    fn unknown_names_are_named() {
        let text = find_user("no-such-user").expect_err("unknown").to_string();
        assert!(text.contains("no-such-user"), "{text}");
        assert!(find_group("no-such-group").is_err());
        assert!(find_user("a\0b").is_err());
    }
}
