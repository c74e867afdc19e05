//! phasectl: keys, publishing, serving and packing, on the host.
fn main() {}
