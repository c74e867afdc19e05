//! Whose servers resolve names: libc's resolver knows one resolv.conf, so the links take turns.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::uplink::Uplink;
use crate::paths::Paths;

static TURN: Mutex<()> = Mutex::new(());

/// While it is held, names are resolved by the servers of one link.
#[derive(Debug)]
pub struct Guard {
    _turn: MutexGuard<'static, ()>,
}

/// Waits for the turn of this link.
pub fn for_uplink(_paths: &Paths, _uplink: &Uplink) -> Guard {
    Guard { _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) }
}
