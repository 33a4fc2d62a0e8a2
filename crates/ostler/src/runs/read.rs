//! Files of a run → a summary, in bounded memory however long they are.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use memchr::{memchr, memchr_iter, memrchr};

use super::Run;
use super::line::{LONGEST, Line};
use super::summary::Summary;

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

/// What a list says of a run.
#[derive(Debug, Default)]
pub struct Glance {
    /// Lines: nobody has looked whether they are good.
    pub calls: u64,
    pub bytes: u64,
    /// µs since the epoch: as noted at the start, else the start of the first call; and the end of the last one.
    pub first: Option<u64>,
    pub last: Option<u64>,
    pub app: String,
}

/// Bytes of all files of a run.
pub fn size(run: &Run) -> u64 {
    let sizes = run.workers.iter().map(|worker| {
        let file = run.file(*worker).and_then(|file| file.metadata());
        file.map_or(0, |about| about.len())
    });
    sizes.sum()
}

/// Counts the lines of a run; `seen` is told how many bytes were read.
pub fn glance(run: &Run, seen: &mut dyn FnMut(u64)) -> Glance {
    let mut glance = Glance {
        first: run.about.start,
        app: run.about.app.clone(),
        ..Glance::default()
    };
    for worker in &run.workers {
        // What cannot be read is told when the run itself is shown.
        if let Ok(mut file) = run.file(*worker) {
            let _ = glance.count(&mut file, seen);
        }
    }
    glance
}

impl Glance {
    /// In µs, from the start to the end of the last call.
    pub fn length(&self) -> Option<u64> {
        Some(self.last?.saturating_sub(self.first?))
    }

    fn count(
        &mut self,
        file: &mut (impl Read + Seek),
        seen: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        let mut first = true;
        loop {
            let got = file.read(&mut piece)?;
            let piece = &piece[..got];
            if got == 0 {
                break;
            }
            if std::mem::take(&mut first) {
                let line = memchr(b'\n', piece).and_then(|end| Line::parse(&piece[..end]));
                if let Some(line) = line {
                    self.first = Some(self.first.map_or(line.start, |first| first.min(line.start)));
                }
            }
            self.calls += memchr_iter(b'\n', piece).count() as u64;
            self.bytes += got as u64;
            seen(got as u64);
        }
        // The last whole line.
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(end.saturating_sub(2 * LONGEST as u64)))?;
        piece.clear();
        file.take(2 * LONGEST as u64).read_to_end(&mut piece)?;
        let Some(end) = memrchr(b'\n', &piece) else {
            return Ok(());
        };
        let start = memrchr(b'\n', &piece[..end]).map_or(0, |before| before + 1);
        if let Some(line) = Line::parse(&piece[start..end]) {
            self.last = Some(self.last.map_or(line.end(), |last| last.max(line.end())));
        }
        Ok(())
    }
}

/// Reads a run to its end; `seen` is told how many bytes were read.
pub fn read(run: &Run, seen: &mut dyn FnMut(u64)) -> Summary {
    let mut summary = Summary::default();
    for worker in &run.workers {
        let name = format!("{}/{worker}.log", run.number);
        let read = run.file(*worker).and_then(|file| {
            lines(
                BufReader::with_capacity(PIECE, file),
                &name,
                &mut summary,
                seen,
            )
        });
        if let Err(error) = read {
            summary.unread.push(format!("{name}: {error}"));
        }
    }
    if let Some(start) = run.about.start {
        summary.first = Some(summary.first.map_or(start, |first| first.min(start)));
    }
    summary
}

fn lines(
    mut file: impl BufRead,
    name: &str,
    summary: &mut Summary,
    seen: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let (mut number, mut begun) = (0, Vec::new());
    loop {
        let piece = file.fill_buf()?;
        let got = piece.len();
        if got == 0 {
            break;
        }
        let mut rest = piece;
        while let Some(end) = memchr(b'\n', rest) {
            number += 1;
            let line = match begun.is_empty() {
                true => &rest[..end],
                false => {
                    keep(&mut begun, &rest[..end]);
                    &begun[..]
                }
            };
            match Line::parse(line) {
                Some(line) => summary.add(&line),
                None => summary.add_bad(name, number),
            }
            begun.clear();
            rest = &rest[end + 1..];
        }
        keep(&mut begun, rest);
        file.consume(got);
        seen(got as u64);
    }
    summary.cut += u64::from(!begun.is_empty());
    Ok(())
}

/// Adds to a line that has begun, as much as shows that it is too long.
fn keep(begun: &mut Vec<u8>, more: &[u8]) {
    let room = (LONGEST + 1).saturating_sub(begun.len());
    begun.extend_from_slice(&more[..more.len().min(room)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summed(text: &[u8], piece: usize) -> Summary {
        let mut summary = Summary::default();
        let file = BufReader::with_capacity(piece, text);
        lines(file, "1/7.log", &mut summary, &mut |_| {}).expect("memory is readable");
        summary
    }

    #[test]
    fn pieces_do_not_matter() {
        let long = "x".repeat(5 * LONGEST);
        let text = format!("10\t5\ta\tok\nnothing\n{long}\n20\t5\tb\t500\n\n30\t5\ta\to");
        for piece in 1..200 {
            let summary = summed(text.as_bytes(), piece);
            assert_eq!((summary.calls, summary.errors, summary.cut), (2, 1, 1));
            assert_eq!(summary.bad_places, ["1/7.log:2", "1/7.log:3", "1/7.log:5"]);
            assert_eq!((summary.first, summary.last), (Some(10), Some(25)));
        }
    }

    #[test]
    fn a_glance_sees_first_and_last_line() {
        let mut glance = Glance::default();
        let text = b"10\t5\ta\tok\n20\t50\tb\tok\n30\t5\ta\to";
        glance
            .count(&mut io::Cursor::new(&text[..]), &mut |_| {})
            .expect("readable");
        assert_eq!(
            (glance.calls, glance.first, glance.last),
            (2, Some(10), Some(70))
        );
        let mut empty = Glance::default();
        empty
            .count(&mut io::Cursor::new(&b""[..]), &mut |_| {})
            .expect("readable");
        assert_eq!((empty.calls, empty.first, empty.last), (0, None, None));
    }
}
