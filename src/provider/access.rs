//! How servers are reached: over which link, through which proxy, by whose servers for names.

use std::sync::Arc;

use crate::net::Uplink;
use crate::paths::Paths;

/// The way to servers. The default is the system's own.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The link that sockets are bound to, and whose servers resolve names.
    pub uplink: Option<Arc<Uplink>>,
    /// `phase.proxy`, `http://[USER:PASSWORD@]HOST:PORT`: for every URL, as curl does it, those of this
    /// machine among them.
    pub proxy: Option<String>,
    pub paths: Paths,
}
