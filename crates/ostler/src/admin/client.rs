//! The other end of the admin API: one request, one answer, waited for. Knows nothing of what is said.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt};

use super::door;

/// The name of the socket in the state folder.
pub const SOCKET: &str = "admin.sock";

/// A question is answered within moments; a server that is being started anew needs a little longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest answer that is read, in bytes: ten thousand workers take a third of it.
const LONGEST_ANSWER: u64 = 8 << 20;

/// Most header fields that are read of an answer; ours has five.
const FIELDS: usize = 16;

/// Why there is no answer.
#[derive(Debug)]
pub struct Unanswered {
    socket: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    NotRunning,
    Dead,
    /// The owner of the socket, when that can be seen.
    Forbidden(Option<u32>),
    /// What the server says.
    Refused(String),
    Silent,
    Broken(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.socket.display();
        match &self.why {
            Why::NotRunning => write!(
                f,
                "ostler does not run: there is no {path}; hint: start `ostler serve`, or name the file it was started with: --config FILE"
            ),
            Why::Dead => write!(
                f,
                "ostler does not run: nobody listens on {path}; hint: start `ostler serve`, which takes the socket over"
            ),
            Why::Forbidden(Some(owner)) => write!(
                f,
                "you may not use {path}; hint: run this as root or as the user who started ostler (uid {owner})"
            ),
            Why::Forbidden(None) => write!(
                f,
                "you may not use {path}; hint: run this as root or as the user who started ostler"
            ),
            Why::Refused(text) => write!(f, "the server refuses to answer: {}", text.trim()),
            Why::Silent => write!(
                f,
                "the server does not answer on {path}; hint: look at its log; TERM to the keeper stops it"
            ),
            Why::Broken(text) => write!(
                f,
                "what answers on {path} is not this ostler: {text}; hint: restart it when the binary has changed"
            ),
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Asks the server whose state folder this is. `long`: the answer may take as long as an app takes to start.
///
/// # Errors
/// There is no answer, or it is a refusal.
pub fn ask(state: &Path, method: &str, target: &str, long: bool) -> Result<Answer, Unanswered> {
    let socket = state.join(SOCKET);
    let patience = if long { door::LONGEST } else { PATIENCE };
    let answer = exchange(&socket, method, target, patience);
    let answer = answer
        .map_err(|error| why(&error, &socket))
        .and_then(|bytes| parse(&bytes));
    match answer {
        Ok(answer) if answer.status == 403 || answer.status == 503 => {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            Err(Why::Refused(text))
        }
        answer => answer,
    }
    .map_err(|why| Unanswered { socket, why })
}

fn exchange(socket: &Path, method: &str, target: &str, patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: ostler\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    // One that refuses does not wait for the request: what it says is there all the same.
    let written = stream.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    match stream.take(LONGEST_ANSWER).read_to_end(&mut bytes) {
        Err(_) if !bytes.is_empty() => Ok(bytes),
        Err(error) => Err(written.err().unwrap_or(error)),
        Ok(_) => Ok(bytes),
    }
}

/// Connects. The wait for a place among those whom the server has not let in yet is bounded (unix(7): that of
/// sending).
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(PATIENCE))?;
    rustix::net::connect(&fd, &address)?;
    Ok(fd.into())
}

fn why(error: &io::Error, socket: &Path) -> Why {
    match error.kind() {
        io::ErrorKind::NotFound => Why::NotRunning,
        io::ErrorKind::ConnectionRefused => Why::Dead,
        io::ErrorKind::PermissionDenied => {
            Why::Forbidden(socket.symlink_metadata().ok().map(|seen| seen.uid()))
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Why::Silent,
        _ => Why::Broken(error.to_string()),
    }
}

/// A whole answer; the server closes behind it.
fn parse(bytes: &[u8]) -> Result<Answer, Why> {
    let broken = |text: &str| Why::Broken(text.to_owned());
    if bytes.is_empty() {
        return Err(broken("it closed without a word"));
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let parsed = head
        .parse(bytes)
        .map_err(|error| broken(&error.to_string()))?;
    let (httparse::Status::Complete(end), Some(status)) = (parsed, head.code) else {
        return Err(broken("its answer ends early"));
    };
    let named = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("content-length");
    let length = head.headers.iter().find(named);
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
    let body =
        bytes.get(end..length.map_or(bytes.len(), |length: usize| end.saturating_add(length)));
    let body = body
        .ok_or_else(|| broken("its answer ends early"))?
        .to_vec();
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_or_none() {
        let good = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc").expect("whole");
        assert_eq!((good.status, &good.body[..]), (200, &b"ab"[..]));
        let open = parse(b"HTTP/1.1 200 OK\r\n\r\nabc").expect("until the end");
        assert_eq!(open.body, b"abc");
        for bytes in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nabc",
            b"SSH-2.0-OpenSSH\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
