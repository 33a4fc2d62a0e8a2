//! The question how an upstream is: one GET on a connection of its own, of whose answer the status is read.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::config::serve::Health;

use super::one::One;

/// `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

/// Asks once.
///
/// # Errors
/// Why the answer is not good.
pub async fn ask(one: &One, health: &Health, connect: Duration) -> Result<(), String> {
    let asked = timeout(health.timeout, exchange(one, health, connect)).await;
    let status = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let status = status.map_err(|why| format!("health check: {why}"))?;
    let good = match health.status {
        Some(wanted) => status == wanted,
        None => (200..400).contains(&status),
    };
    match good {
        true => Ok(()),
        false => Err(format!("health check: status {status}")),
    }
}

async fn exchange(one: &One, health: &Health, connect: Duration) -> Result<u16, String> {
    let link = timeout(connect, one.connect()).await;
    let link = link.map_err(|_| "no connection in time".to_owned())?;
    let mut stream = link.map_err(|trouble| trouble.to_string())?.stream;
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nuser-agent: ostler\r\nconnection: close\r\n\r\n",
        health.path, one.authority
    );
    let told = |error: std::io::Error| error.to_string();
    stream.write_all(request.as_bytes()).await.map_err(told)?;
    stream.flush().await.map_err(told)?;
    let mut line = [0; STATUS_LINE];
    stream.read_exact(&mut line).await.map_err(told)?;
    status(&line).ok_or_else(|| "the answer is no HTTP".to_owned())
}

fn status(line: &[u8; STATUS_LINE]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    match rest {
        [b'0' | b'1', b' ', code @ ..] if code.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(code).ok()?.parse().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn a_status_is_three_digits_of_http_1() {
        assert_eq!(status(b"HTTP/1.1 204"), Some(204));
        assert_eq!(status(b"HTTP/1.0 503"), Some(503));
        for wrong in [
            b"HTTP/2.0 200",
            b"HTTP/1.1 2x4",
            b"SSH-2.0-Open",
            b"HTTP/1.1\n200",
        ] {
            assert_eq!(status(wrong), None);
        }
    }
}
