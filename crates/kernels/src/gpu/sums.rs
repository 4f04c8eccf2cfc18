//! Sums and maxima over a cube's units, through shared memory: no vendor's subgroups.

use burn_cubecl::cubecl::{self, prelude::*};

/// The sum of the values of a lane's units, in all of them; `shared` holds a value of each unit. Unit u is of lane
/// `u mod lanes`; units and lanes are powers of two.
#[cube]
pub(super) fn sum(value: f32, shared: &mut Shared<[f32]>, #[comptime] lanes: usize) -> f32 {
    let unit = UNIT_POS as usize;
    // Nobody still reads the result before.
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half >= lanes {
        if unit < half {
            let other = shared[unit + half];
            shared[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    shared[unit % lanes]
}

/// The largest of the units' values, in all of them.
#[cube]
pub(super) fn largest(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            let other = shared[unit + half];
            shared[unit] = max(shared[unit], other);
        }
        sync_cube();
        half /= 2;
    }
    shared[0]
}
