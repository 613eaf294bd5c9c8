//! What to fetch or send, in which order, over how many connections
