//! The projections of latent attention.

use super::{Part, members};
use crate::{
    Error, Result, raw,
    weights::{Checkpoint, Derived, Packed, Source, Tensor},
};
use mlx_rs::{Array, Dtype, ops};

impl Checkpoint {
    /// Takes `kv_b_proj` [heads · (nope + value), rank] of latent attention (arXiv 2405.04434) apart, so that queries can be
    /// taken into the latent space and outputs out of it: `embed_q` [heads, rank, nope] and `unembed_out` [heads, value, rank].
    ///
    /// A packed one is unpacked and packed again with the same bits and group, where `nope` is a multiple of the group.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape, [`Error::Tensor`] for a type that it cannot have.
    pub fn absorb_kv_b(&mut self, heads: i32, nope: i32, value: i32, rank: i32) -> Result<()> {
        let sizes = [heads, nope, value, rank];
        let rows = i64::from(heads) * (i64::from(nope) + i64::from(value));
        let (Ok(rows), true) = (i32::try_from(rows), sizes.iter().all(|n| *n > 0)) else {
            return Err(Error::config(
                "kv_lora_rank",
                format!("sizes {sizes:?}"),
                "sizes of latent attention",
            ));
        };
        let modules = members(self, "kv_b_proj").into_iter().filter(|m| m.part == Part::Weight);
        for member in modules.collect::<Vec<_>>() {
            let format = self.unpack(&member.name, [rows, rank])?;
            let found = self.get(&member.name).map(Tensor::shape).unwrap_or_default();
            if found != [rows, rank] {
                let (found, wanted) = (found.to_vec(), vec![rows, rank]);
                return Err(Error::Shape { name: member.name, found, wanted });
            }
            self.reshape(|n| n == member.name, |_| Some(vec![heads, nope + value, rank]))?;
            let module = format!("{}kv_b_proj", member.head);
            let parts = ["embed_q", "unembed_out"].map(|to| format!("{}{to}", member.head));
            self.split(&module, -2, &[(&parts[0], nope), (&parts[1], value)])?;
            let [embed, unembed] = parts.map(|part| format!("{part}.weight"));
            self.transpose(|n| n == embed)?;
            if let Some((group, bits)) = format.filter(|(group, _)| nope % group == 0) {
                self.pack(&embed, group, bits)?;
                self.pack(&unembed, group, bits)?;
            }
        }
        Ok(())
    }

    /// Makes a packed weight of this shape dense. Its group and bits, if they are such that it can be packed again.
    fn unpack(&mut self, name: &str, shape: [i32; 2]) -> Result<Option<(i32, i32)>> {
        let module = name.strip_suffix(".weight").unwrap_or(name).to_string();
        let scales = format!("{module}.scales");
        let biases = format!("{module}.biases");
        let (Some(scales), true) = (self.take(&scales).map(|t| (t, scales)), self.contains(name)) else {
            return Ok(None);
        };
        let biases = self.take(&biases).map(|t| (t, biases));
        let Some(weight) = self.take(name) else { return Ok(None) };
        let last = |t: &Tensor| t.shape().last().copied().unwrap_or_default();
        let (words, groups) = (last(&weight), last(&scales.0));
        let affine = biases.is_some() && groups > 0 && shape[1] % groups == 0;
        let format =
            affine.then(|| (shape[1] / groups.max(1), (i64::from(words) * 32 / i64::from(shape[1])) as i32));
        // Other modes have scales that are no floats; MLX makes bfloat16 of them.
        let dtype = scales.0.dtype().filter(|_| affine).unwrap_or(Dtype::Bfloat16);
        let parts = [Some((weight, name.to_string())), Some(scales), biases];
        let inputs = parts.into_iter().flatten().map(|(t, name)| Source::new(name, t, 1)).collect();
        let dense = Derived::new(inputs, shape.to_vec(), dtype, move |x| {
            let p = Packed::new(&module, &shape, x[0].clone(), x[1].clone(), x.get(2).cloned())?;
            Ok(raw::dequantize(&p.weight, &p.scales, p.biases.as_ref(), p.format())?)
        });
        self.put(name.into(), Tensor::Derived(dense))?;
        Ok(format.filter(|(group, _)| *group > 0))
    }

    /// Packs a dense weight, as MLX quantizes.
    fn pack(&mut self, name: &str, group: i32, bits: i32) -> Result<()> {
        let Some(tensor) = self.take(name) else { return Ok(()) };
        let (shape, dtype) = (tensor.shape().to_vec(), tensor.dtype().unwrap_or(Dtype::Float32));
        let source = Source::new(name, tensor, 1);
        let packed = Derived::packed(vec![source], shape, dtype, move |x: &[Array]| {
            let (weight, scales, biases) = ops::quantize(&x[0], group, bits)?;
            Ok([weight, scales, biases])
        });
        self.put(name.into(), Tensor::Derived(packed))
    }
}
