//! TurboQuant (arXiv 2504.19874): a vector is turned by a random rotation, after which its coordinates follow one known distribution, and
//! each is then stored as the number of a level of the best scalar quantizer for that distribution. Rotation and levels follow from the
//! width (and a seed) alone, so a file need not hold them.
//!
//! Signs, levels and the order of the rotation's axes are those of the JANG tools, whose bundles they have to read.

mod codebook;
mod rotation;
mod signs;

pub use codebook::codebook;
pub use rotation::Rotation;
pub use signs::signs;
