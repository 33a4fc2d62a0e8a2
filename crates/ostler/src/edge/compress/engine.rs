//! One body in one coding: bytes in, coded bytes out. Knows no response.
//!
//! What levels cost and give, one thread, best of many runs of 64 KiB pieces; an API's answer (JSON, 160 KB), a page of
//! a manual (HTML, 61 KB) and a script (73 KB), in MB/s and times smaller:
//!
//! | | JSON | HTML | script |
//! |---|---|---|---|
//! | zstd 1 | 497, 5.63 | 322, 3.59 | 314, 3.74 |
//! | **zstd 3** | 332, 5.53 | 237, 3.86 | 239, 4.16 |
//! | zstd 5 | 117, 5.63 | 96, 4.03 | 97, 4.38 |
//! | *zstd 9* | 51, 6.05 | 48, 4.12 | 47, 4.53 |
//! | zstd 19 | 1, 6.35 | 2, 4.38 | 1, 4.92 |
//! | gzip 1 | 293, 3.43 | 252, 2.86 | 263, 3.07 |
//! | **gzip 4** | 119, 5.31 | 85, 3.98 | 87, 4.37 |
//! | *gzip 6* | 91, 5.49 | 70, 4.05 | 65, 4.47 |
//! | gzip 9 | 56, 5.23 | 41, 4.08 | 41, 4.55 |
//! | br 3 | 85, 5.50 | 64, 3.90 | 63, 4.22 |
//! | **br 4** | 66, 5.61 | 45, 4.09 | 46, 4.36 |
//! | *br 5* | 31, 5.78 | 29, 4.38 | 27, 4.75 |
//! | br 9 | 3, 5.87 | 3, 4.44 | 2, 4.82 |
//! | br 11 | 0.4, 6.70 | 0.4, 4.98 | 0.4, 5.18 |
//!
//! Bold is what answers get, which are coded each time, italic what files get, which are coded once: there the next
//! level costs ten times as much for a tenth.

use std::io::Write as _;

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use flate2::{Compress, Compression, FlushCompress, Status};
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective as Directive;
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective};

use crate::edge::h1::coding::Coding;

/// How much is spent on a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// It is coded for one client.
    Each,
    /// It is coded once for all.
    Once,
}

/// What an encoder of answers looks back at, as a power of two: 128 KiB. A page seldom repeats what is further away,
/// and larger windows made none of the bodies above smaller. With it an engine of zstd takes 1.6 MiB.
const WINDOW: u32 = 17;

/// Room that is made for coded bytes at once.
const ROOM: usize = 16 * 1024;

/// An engine failed: it had no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

/// An encoder of one coding.
pub enum Engine {
    Zstd(CCtx<'static>),
    /// Boxed: its state is several hundred bytes.
    Brotli(Box<CompressorWriter<Vec<u8>>>, Effort),
    Gzip(Compress),
}

impl Engine {
    pub fn new(coding: Coding, effort: Effort) -> Result<Self, Failed> {
        Ok(match coding {
            Coding::Zstd => {
                let mut context = CCtx::try_create().ok_or(Failed)?;
                let level = match effort {
                    Effort::Each => 3,
                    Effort::Once => 9,
                };
                let mut set = |parameter| context.set_parameter(parameter).map_err(|_| Failed);
                set(CParameter::CompressionLevel(level))?;
                if effort == Effort::Each {
                    set(CParameter::WindowLog(WINDOW))?;
                }
                Self::Zstd(context)
            }
            Coding::Brotli => Self::Brotli(brotli(effort), effort),
            Coding::Gzip => {
                let level = match effort {
                    Effort::Each => 4,
                    Effort::Once => 6,
                };
                Self::Gzip(Compress::new_gzip(Compression::new(level), 15))
            }
        })
    }

    /// Takes bytes of the body; appends what comes out, which may be nothing yet.
    pub fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Failed> {
        match self {
            Self::Zstd(context) => zstd(context, bytes, Directive::ZSTD_e_continue, out),
            Self::Brotli(writer, _) => {
                writer.write_all(bytes).map_err(|_| Failed)?;
                out.append(writer.get_mut());
                Ok(())
            }
            Self::Gzip(state) => gzip(state, bytes, FlushCompress::None, out),
        }
    }

    /// Appends all that was taken and has not come out, so that the client can read it.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), Failed> {
        match self {
            Self::Zstd(context) => zstd(context, b"", Directive::ZSTD_e_flush, out),
            Self::Brotli(writer, _) => {
                writer.flush().map_err(|_| Failed)?;
                out.append(writer.get_mut());
                Ok(())
            }
            Self::Gzip(state) => gzip(state, b"", FlushCompress::Sync, out),
        }
    }

    /// Appends the rest of the body; the next one may begin.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Failed> {
        match self {
            Self::Zstd(context) => zstd(context, b"", Directive::ZSTD_e_end, out),
            Self::Brotli(writer, effort) => {
                let done = std::mem::replace(writer, brotli(*effort));
                out.append(&mut done.into_inner());
                Ok(())
            }
            Self::Gzip(state) => {
                gzip(state, b"", FlushCompress::Finish, out)?;
                state.reset();
                Ok(())
            }
        }
    }

    /// Forgets a body that was begun.
    pub fn reset(&mut self) -> Result<(), Failed> {
        match self {
            Self::Zstd(context) => {
                let reset = context.reset(ResetDirective::SessionOnly);
                reset.map(drop).map_err(|_| Failed)
            }
            Self::Brotli(writer, effort) => {
                **writer = *brotli(*effort);
                Ok(())
            }
            Self::Gzip(state) => {
                state.reset();
                Ok(())
            }
        }
    }
}

fn brotli(effort: Effort) -> Box<CompressorWriter<Vec<u8>>> {
    let (quality, lgwin) = match effort {
        Effort::Each => (4, WINDOW as i32),
        Effort::Once => (5, 22),
    };
    let parameters = BrotliEncoderParams {
        quality,
        lgwin,
        ..BrotliEncoderParams::default()
    };
    Box::new(CompressorWriter::with_params(Vec::new(), ROOM, &parameters))
}

fn zstd(
    context: &mut CCtx<'_>,
    bytes: &[u8],
    directive: Directive,
    out: &mut Vec<u8>,
) -> Result<(), Failed> {
    let mut input = InBuffer::around(bytes);
    loop {
        out.reserve(ROOM);
        let at = out.len();
        let mut output = OutBuffer::around_pos(out, at);
        let left = context
            .compress_stream2(&mut output, &mut input, directive)
            .map_err(|_| Failed)?;
        let done = match directive {
            Directive::ZSTD_e_continue => input.pos() == bytes.len(),
            Directive::ZSTD_e_flush | Directive::ZSTD_e_end => left == 0,
        };
        if done {
            return Ok(());
        }
    }
}

fn gzip(
    state: &mut Compress,
    bytes: &[u8],
    flush: FlushCompress,
    out: &mut Vec<u8>,
) -> Result<(), Failed> {
    let start = state.total_in();
    loop {
        out.reserve(ROOM);
        let taken = (state.total_in() - start) as usize;
        let status = state.compress_vec(&bytes[taken..], out, flush);
        let status = status.map_err(|_| Failed)?;
        let taken = (state.total_in() - start) as usize;
        // With room to spare it has nothing more to say.
        let has_room = out.len() < out.capacity();
        let done = match flush {
            FlushCompress::Finish => status == Status::StreamEnd,
            _ => taken == bytes.len() && has_room,
        };
        if done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    pub fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let read = match coding {
            Coding::Zstd => zstd::Decoder::new(bytes)
                .expect("a decoder")
                .read_to_end(&mut plain),
            Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain),
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain),
        };
        // What is not at its end yet is read as far as it goes.
        let _ = read;
        plain
    }

    proptest! {
        /// However a body is cut, it comes out whole; and each flush gives all that went in before it.
        #[test]
        fn what_goes_in_comes_out(
            pieces in proptest::collection::vec((0..40_000_usize, any::<u8>(), any::<bool>()), 0..6),
            once in any::<bool>(),
        ) {
            for coding in Coding::ALL {
                let effort = if once { Effort::Once } else { Effort::Each };
                let mut engine = Engine::new(coding, effort).expect("memory");
                // The second body is not the first one's rest.
                for _ in 0..2 {
                    let (mut plain, mut out) = (Vec::new(), Vec::new());
                    for &(length, seed, flush) in &pieces {
                        let piece: Vec<u8> = (0..length).map(|n| (n as u8 ^ seed).wrapping_mul(seed)).collect();
                        engine.write(&piece, &mut out).expect("memory");
                        plain.extend(piece);
                        if flush {
                            engine.flush(&mut out).expect("memory");
                            prop_assert!(decoded(coding, &out) == plain, "{coding:?}");
                        }
                    }
                    engine.finish(&mut out).expect("memory");
                    prop_assert!(decoded(coding, &out) == plain, "{coding:?}");
                }
                engine.write(b"begun", &mut Vec::new()).expect("memory");
                engine.reset().expect("memory");
                let mut out = Vec::new();
                engine.finish(&mut out).expect("memory");
                prop_assert!(decoded(coding, &out).is_empty());
            }
        }
    }
}
