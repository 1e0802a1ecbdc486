//! What needs more than one room: the local stack, end to end, faults.
