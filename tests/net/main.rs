//! The network room against real servers, in network namespaces of these tests' own.
//!
//! Each test runs twice: outside it builds the namespaces and starts the servers, then it runs
//! itself inside the client's namespace (`ip netns exec`), where the environment says so. Without
//! root, iproute2 or dnsmasq it says so and does nothing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    reason = "a test may panic and print"
)]

mod faulty;
mod given;
mod ipv6;
mod lab;
mod lease;
mod links;
mod many;
mod servers;
mod tree;
mod upset;
