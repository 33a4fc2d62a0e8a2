//! Who is asking. Each check gives a value that proves it happened: what lies behind asks for a [`Caller`].
//!
//! In call order: [`credential`] finds what a request shows, [`keys`], [`users`] and [`jwt`] know whose it is, [`proofs`] whose
//! slow function runs for whom; [`keyfile`] reads the
//! texts that keys come from, [`watch`] follows their files. Nothing here knows connections or answers.

mod credential;
mod follow;
mod hash;
pub mod jwt;
pub mod keyfile;
mod keys;
mod proofs;
mod slow;
mod users;
mod watch;

use std::sync::Arc;

pub use credential::Shown;
pub use keys::Keys;
pub use proofs::Proof;
pub use slow::{Busy, SlowLine};
pub use users::Users;
pub use watch::open;

/// Who sends a request, as far as that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody is asked here, or who lets him in gives him no name.
    Anyone,
    User(Arc<str>),
}
