//! A file that an app answers with (`wsgi.file_wrapper`, `http.response.pathsend`).
//!
//! The descriptor comes from the worker and is not trusted: it may be a pipe, a device or a file on
//! a file system that never answers. It is looked at where waiting is allowed, and only a regular
//! file is taken; its bytes come from an edge thread only when the kernel has them in memory.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ostler_wire::FileHead;

use super::compress::SLICE;
use super::connection::Connection;
use super::disk::{self, Disk, Reach};
use super::patience::Patience;
use super::reason::Reason;
use super::sending::{After, Sending};

/// Bytes read at once.
const PIECE: u64 = 256 * 1024;

/// A regular file, clamped to what it holds.
pub struct WorkerFile {
    disk: Disk,
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl WorkerFile {
    /// `None` for anything but a regular file.
    pub async fn open(disk: &Disk, file: OwnedFd, range: FileHead) -> Option<Self> {
        let opened = disk.run(move || {
            let file = File::from(file);
            let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some((file, metadata.len()))
        });
        let (file, len) = opened.await.ok()??;
        let at = range.offset.min(len);
        let end = at.saturating_add(range.len).min(len);
        Some(Self {
            disk: disk.clone(),
            file: Arc::new(file),
            at,
            end,
        })
    }

    /// The next piece of `most` bytes, until the end of the range or of the file.
    pub async fn next(&mut self, most: usize) -> Option<io::Result<Vec<u8>>> {
        let wanted = (self.end - self.at).min(most as u64) as usize;
        if wanted == 0 {
            return None;
        }
        let mut piece = vec![0; wanted];
        if let Ok(count) = disk::read(&self.file, self.at, &mut piece, Reach::Memory) {
            return Some(Ok(self.took(piece, count)));
        }
        let (file, at) = (Arc::clone(&self.file), self.at);
        let read = move || {
            let count = disk::read(&file, at, &mut piece, Reach::Disk)?;
            Ok::<_, io::Error>((piece, count))
        };
        match self.disk.run(read).await {
            Ok(Ok((_, 0))) => None,
            Ok(Ok((piece, count))) => Some(Ok(self.took(piece, count))),
            Ok(Err(error)) => Some(Err(error)),
            Err(_late) => Some(Err(io::ErrorKind::TimedOut.into())),
        }
    }

    fn took(&mut self, mut piece: Vec<u8>, count: usize) -> Vec<u8> {
        piece.truncate(count);
        self.at += count as u64;
        piece
    }
}

impl Connection {
    /// Bytes of a file that may be read at once.
    pub fn file_room(&mut self) -> usize {
        let step = self.file_step().min(PIECE) as usize;
        self.out.room(step)
    }

    /// Sends a file as the rest of a response. No worker waits meanwhile, however slowly the client
    /// reads.
    pub async fn send_worker_file(&mut self, mut file: WorkerFile, mut sending: Sending) -> After {
        if !sending.is_bodiless() {
            let mut patience = Patience::default();
            while let Some(piece) = file.next(self.file_room()).await {
                let Ok(piece) = piece else {
                    return self.cut(Reason::ResponseShort).await;
                };
                let most = if sending.is_coded() {
                    SLICE
                } else {
                    usize::MAX
                };
                for slice in piece.chunks(most) {
                    self.row.sent += sending.append(slice, self.out.bytes()) as u64;
                    if sending.is_coded() {
                        tokio::task::yield_now().await;
                    }
                }
                drop(piece);
                if self.flush_part(&mut patience).await.is_err() {
                    self.row.reason = Some(Reason::ClientGone);
                    return After::Abort;
                }
            }
        }
        self.row.sent += sending.finish(self.out.bytes()) as u64;
        match sending.end(self.out.bytes()) {
            Ok(after) => after,
            Err(reason) => self.cut(reason).await,
        }
    }

    /// Ends a response that has begun and cannot be finished: what the client has is whole up to
    /// here, and the end it waits for never comes.
    pub async fn cut(&mut self, reason: Reason) -> After {
        self.row.reason = Some(reason);
        let _ = self.flush().await;
        After::Abort
    }
}
