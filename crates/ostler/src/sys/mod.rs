//! The only unsafe code of the binary: descriptors, users, signals, processes.
