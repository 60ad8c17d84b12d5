//! Simulation: the real batcher among virtual clients and virtual instances, on a virtual clock.
