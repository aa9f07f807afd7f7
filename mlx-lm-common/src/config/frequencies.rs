//! From a [`RopeConfig`] to the numbers that a rotation needs.
//!
//! Formulas and their order follow mlx-lm's `rope_utils.py` operation by operation, in float32 where it computes in float32, so
//! that the results agree to the last bit wherever `powf` does. YaRN's `truncate` is transformers' alone.

use super::{RopeConfig, RopeKind};
use std::f64::consts::PI;

/// What a rotation by position p does: channels times `mscale`, then pair i turns by p · scale / wavelength i.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// The wavelengths, in positions per radian.
    pub theta: Theta,
    /// Factor on positions.
    pub scale: f32,
    /// Factor on the rotated channels, before they turn.
    pub mscale: f32,
}

/// Wavelengths in positions per radian.
#[derive(Clone, Debug, PartialEq)]
pub enum Theta {
    /// base^(2i / dims) for channel pair i.
    Base(f32),
    /// One for each channel pair; infinite where nothing turns. MLX's `fast::rope` takes them as `freqs`.
    Wavelengths(Vec<f32>),
}

impl RopeConfig {
    /// The numbers for a text of `len` positions, cached ones included. Only [`RopeKind::Dynamic`] depends on it: see
    /// [`RopeConfig::depends_on_length`].
    pub fn frequencies(&self, len: i32) -> Frequencies {
        let plain = Frequencies { theta: Theta::Base(self.base as f32), scale: 1.0, mscale: 1.0 };
        let long = |wavelengths| Frequencies { theta: Theta::Wavelengths(wavelengths), ..plain.clone() };
        match &self.kind {
            RopeKind::Default => plain,
            RopeKind::Linear { factor } => Frequencies { scale: (1.0 / factor) as f32, ..plain },
            RopeKind::Dynamic { factor, original_max } => {
                let grown = factor * f64::from(len).max(*original_max) / original_max - (factor - 1.0);
                Frequencies { theta: Theta::Base((self.base * grown.powf(self.ntk())) as f32), ..plain }
            }
            RopeKind::NtkAlpha { alpha } => long(self.powers(self.base * alpha.powf(self.ntk()), self.dims)),
            RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
                long(self.llama3(*factor, *low_freq_factor, *high_freq_factor, *original_max))
            }
            RopeKind::Yarn {
                factor,
                original_max,
                beta_fast,
                beta_slow,
                mscale,
                mscale_all_dim,
                truncate,
                ..
            } => {
                let mscale = yarn_mscale(*factor, *mscale) / yarn_mscale(*factor, *mscale_all_dim);
                let wavelengths = self.yarn(*factor, *original_max, [*beta_fast, *beta_slow], *truncate);
                Frequencies { mscale: mscale as f32, ..long(wavelengths) }
            }
            RopeKind::LongRope { long_factor, original_max, max_positions, long_mscale, .. } => {
                let factor = max_positions / original_max;
                let computed =
                    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_max.ln()).sqrt() };
                let mscale = long_mscale.filter(|m| *m != 0.0).unwrap_or(computed) as f32;
                Frequencies { mscale, ..long(self.divided(long_factor)) }
            }
            RopeKind::Proportional { factor, rotated } => {
                let mut all = self.powers(self.base, *rotated);
                all.iter_mut().for_each(|w| *w *= *factor as f32);
                all.resize(self.dims as usize / 2, f32::INFINITY);
                long(all)
            }
            RopeKind::FreqFactors(factors) => long(self.divided(factors)),
        }
    }

    /// Whether [`RopeConfig::frequencies`] must be asked again as a text grows.
    pub fn depends_on_length(&self) -> bool {
        matches!(self.kind, RopeKind::Dynamic { .. })
    }

    /// The scale of attention with what DeepSeek's YaRN adds to it: times (0.1 · mscale_all_dim · ln(factor) + 1)², if the
    /// config has `mscale_all_dim`. Architectures that do not do so leave it out.
    pub fn attention_scale(&self, scale: f32) -> f32 {
        match self.kind {
            RopeKind::Yarn { factor, mscale_all_dim, .. } if factor > 1.0 => {
                let s = yarn_mscale(factor, mscale_all_dim);
                (f64::from(scale) * s * s) as f32
            }
            _ => scale,
        }
    }

    /// The exponent that spreads a larger base over all channels but the fastest.
    fn ntk(&self) -> f64 {
        f64::from(self.dims) / f64::from(self.dims - 2)
    }

    /// base^(2i / dims) for the first `rotated` channels.
    fn powers(&self, base: f64, rotated: i32) -> Vec<f32> {
        (0..rotated).step_by(2).map(|i| (base as f32).powf(i as f32 / self.dims as f32)).collect()
    }

    fn divided(&self, factors: &[f32]) -> Vec<f32> {
        self.powers(self.base, self.dims).iter().zip(factors.iter().cycle()).map(|(w, f)| f * w).collect()
    }

    fn llama3(&self, factor: f64, low_freq: f64, high_freq: f64, original_max: f64) -> Vec<f32> {
        let (longest, shortest) = ((original_max / low_freq) as f32, (original_max / high_freq) as f32);
        let mut all = self.powers(self.base, self.dims);
        for w in &mut all {
            let turn = (2.0 * PI) as f32 * *w;
            if turn > longest {
                *w *= factor as f32;
            } else if turn > shortest && turn < longest {
                let smooth = (original_max as f32 / turn - low_freq as f32) / (high_freq - low_freq) as f32;
                *w /= (1.0 - smooth) / factor as f32 + smooth;
            }
        }
        all
    }

    fn yarn(&self, factor: f64, original_max: f64, [fast, slow]: [f64; 2], truncate: bool) -> Vec<f32> {
        let dims = f64::from(self.dims);
        let channel = |turns: f64| dims * (original_max / (turns * 2.0 * PI)).ln() / (2.0 * self.base.ln());
        let (low, high) = (channel(fast), channel(slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
        if low == high {
            high += 0.001;
        }
        let mut all = self.powers(self.base, self.dims);
        for (i, w) in all.iter_mut().enumerate() {
            let kept = 1.0 - ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let divided = factor as f32 * *w;
            *w = (divided * *w) / (divided * kept + *w * (1.0 - kept));
        }
        all
    }
}

fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}
