//! One row on its way from an edge thread to the writer: bytes in a buffer, without a heap allocation of its own.

/// What is kept of a request. Times are microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it ended, since 1970.
    pub at: u64,
    /// The number that answers and other logs have.
    pub id: u64,
    /// 0 when none was sent.
    pub status: u16,
    /// Bytes of its body that were read from the client, when its head says that there is one.
    pub received: Option<u64>,
    /// Bytes of body that were sent.
    pub sent: u64,
    /// In line for a worker, and from there to the head of the response.
    pub queue: Option<u64>,
    pub app: Option<u64>,
    pub total: u64,
    /// The pid of the worker.
    pub worker: Option<u64>,
    pub project: &'a [u8],
    pub method: &'a [u8],
    /// Decoded, without its query, which may hold what is nobody's to read.
    pub path: &'a [u8],
    pub client: &'a [u8],
    /// Who sent it, where somebody has to prove that; empty for nobody.
    pub user: &'a [u8],
    /// Why ostler itself answered; empty when it did not.
    pub reason: &'a [u8],
}

/// Bytes that are kept of one text: a path may be 60 KiB long, and who looks at it reads a line.
const LONGEST_TEXT: usize = 1024;

/// A number that is not there.
const NONE: u64 = u64::MAX;

impl<'a> Record<'a> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let numbers = [
            self.at,
            self.id,
            u64::from(self.status),
            self.received.unwrap_or(NONE),
            self.sent,
            self.queue.unwrap_or(NONE),
            self.app.unwrap_or(NONE),
            self.total,
            self.worker.unwrap_or(NONE),
        ];
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for text in [
            self.project,
            self.method,
            self.path,
            self.client,
            self.user,
            self.reason,
        ] {
            let text = &text[..text.len().min(LONGEST_TEXT)];
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text);
        }
    }

    /// Takes the first record off `bytes`; `None` when they hold none.
    pub fn decode(bytes: &mut &'a [u8]) -> Option<Self> {
        let mut numbers = [0; 9];
        for number in &mut numbers {
            *number = u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?);
        }
        let mut texts: [&[u8]; 6] = [&[]; 6];
        for text in &mut texts {
            let length = u16::from_le_bytes(*bytes.split_off(..2)?.first_chunk()?);
            *text = bytes.split_off(..usize::from(length))?;
        }
        let [at, id, status, received, sent, queue, app, total, worker] = numbers;
        let [project, method, path, client, user, reason] = texts;
        let maybe = |number: u64| (number != NONE).then_some(number);
        Some(Self {
            at,
            id,
            status: status as u16,
            received: maybe(received),
            sent,
            queue: maybe(queue),
            app: maybe(app),
            total,
            worker: maybe(worker),
            project,
            method,
            path,
            client,
            user,
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            numbers in prop::array::uniform4(0..u64::MAX),
            maybe in prop::option::of(0..u64::MAX),
            status in 0..u16::MAX,
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 6),
        ) {
            let record = Record {
                at: numbers[0],
                id: numbers[1],
                status,
                received: maybe,
                sent: numbers[2],
                queue: maybe,
                app: None,
                total: numbers[3],
                worker: maybe,
                project: &texts[0],
                method: &texts[1],
                path: &texts[2],
                client: &texts[3],
                user: &texts[4],
                reason: &texts[5],
            };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            record.encode(&mut bytes);
            let cut = |text: &[u8]| text[..text.len().min(LONGEST_TEXT)].to_vec();
            let mut rest = &bytes[..];
            let first = Record::decode(&mut rest).expect("whole");
            prop_assert_eq!(first.path, &cut(&texts[2])[..]);
            prop_assert_eq!(first.user, &cut(&texts[4])[..]);
            prop_assert_eq!(first.reason, &cut(&texts[5])[..]);
            prop_assert_eq!((first.at, first.status, first.queue, first.app), (record.at, status, maybe, None));
            prop_assert_eq!(Record::decode(&mut rest).expect("whole"), first);
            prop_assert!(rest.is_empty() && Record::decode(&mut rest).is_none());
        }

        #[test]
        fn nonsense_is_no_record(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = &bytes[..];
            while Record::decode(&mut rest).is_some() {}
        }
    }
}
