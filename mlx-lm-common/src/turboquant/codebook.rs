//! The levels that coordinates of a rotated vector are stored as.

/// Points of the grid that integrals are taken on, from -1 to 1.
const POINTS: usize = 10_000;

/// The `2^bits` levels, ascending, for the coordinates of a unit vector of `dim` dimensions turned at random: the quantizer of Lloyd
/// (1957) and Max (1960) for their density, which is proportional to (1 - x²)^((dim - 3) / 2).
///
/// The quantizer is found by iteration on a grid too coarse for great widths, and stops before it has settled; levels that files were
/// written with are those that exactly this calculation gives.
pub fn codebook(dim: usize, bits: u32) -> Vec<f32> {
    let step = 2.0 / (POINTS - 1) as f64;
    let mut grid: Vec<f64> = (0..POINTS).map(|i| i as f64 * step - 1.0).collect();
    grid[POINTS - 1] = 1.0;
    let mut density: Vec<f64> = grid.iter().map(|x| density(*x, dim)).collect();
    let total = integral(&grid, &density);
    density.iter_mut().for_each(|p| *p /= total);
    let moment: Vec<f64> = grid.iter().zip(&density).map(|(x, p)| x * p).collect();

    let count = 1usize << bits;
    let support = 3.0 / (dim.max(1) as f64).sqrt();
    let spacing = 2.0 * support / (count - 1) as f64;
    let mut levels: Vec<f64> = (0..count).map(|i| i as f64 * spacing - support).collect();
    levels[count - 1] = support;
    for _ in 0..200 {
        let mut start = 0;
        let better: Vec<f64> = (0..count)
            .map(|i| {
                let end = match levels.get(i + 1) {
                    Some(next) => grid.partition_point(|x| *x < (levels[i] + next) / 2.0),
                    None => POINTS,
                };
                let region = start.min(end)..end;
                start = end;
                if region.len() <= 1 {
                    return levels[i];
                }
                let mass = integral(&grid[region.clone()], &density[region.clone()]);
                integral(&grid[region.clone()], &moment[region]) / mass.max(1e-10)
            })
            .collect();
        if levels.iter().zip(&better).all(|(old, new)| (old - new).abs() <= 1e-10 + 1e-5 * new.abs()) {
            break;
        }
        levels = better;
    }
    levels.sort_by(f64::total_cmp);
    levels.into_iter().map(|level| level as f32).collect()
}

/// The density at `x`, up to a factor.
fn density(x: f64, dim: usize) -> f64 {
    if dim <= 2 { 1.0 } else { ((dim as f64 - 3.0) / 2.0 * (1.0 - x * x).max(1e-30).ln()).exp() }
}

/// By the trapezoid rule.
fn integral(x: &[f64], y: &[f64]) -> f64 {
    x.windows(2).zip(y.windows(2)).map(|(x, y)| (x[1] - x[0]) * (y[1] + y[0]) / 2.0).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The upper halves of what version 2.5.50 of the JANG tools computes, in float32.
    #[test]
    fn levels_are_those_of_the_tools() {
        let known: [(usize, u32, &[f32]); 12] = [
            (1, 2, &[0.500_05, 3.0]),
            (2, 3, &[0.250_025, 0.750_075, 1.515_228_9, 2.121_320_2]),
            (64, 2, &[0.056_609_984, 0.187_737_42]),
            (128, 2, &[0.040_119_89, 0.133_352_12]),
            (
                128,
                4,
                &[
                    0.011_832_266,
                    0.035_592_504,
                    0.059_826_143,
                    0.085_372_485,
                    0.113_261_09,
                    0.145_000_2,
                    0.184_049_05,
                    0.240_600_48,
                ],
            ),
            (320, 3, &[0.013_905_48, 0.042_815_92, 0.075_846_5, 0.120_798_89]),
            (512, 1, &[0.035_342_64]),
            (1536, 2, &[0.011_629_915, 0.038_737_297]),
            (2048, 2, &[0.010_141_449, 0.033_700_474]),
            (768, 3, &[0.009_008_208, 0.027_701_309, 0.049_095_083, 0.078_324_564]),
            (4096, 2, &[0.007_191_894_6, 0.023_889_545]),
            (14336, 2, &[0.003_874_615, 0.012_856_054]),
        ];
        for (dim, bits, upper) in known {
            let levels = codebook(dim, bits);
            assert_eq!(levels.len(), 1 << bits);
            assert_eq!(&levels[1 << (bits - 1)..], upper, "{bits} bits of {dim}");
        }
    }
}
