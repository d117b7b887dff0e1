//! Tests of tunnels in simulated time, boringtun's own clock included: see `tests/`.
