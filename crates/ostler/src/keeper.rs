//! The keeper process: holds listeners, starts and reaps every other process.
