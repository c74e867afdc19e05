//! phasectl: what the host does.
