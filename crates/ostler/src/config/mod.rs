//! Text → what was written → checked settings. Knows no sockets and starts nothing.
