//! Verbs that compute: constants folded into weights.

use crate::{
    Error, Result,
    raw::Mode,
    weights::{Checkpoint, Derived, Source, Tensor, stored::is_float},
};
use mlx_rs::{Array, Dtype};

impl Checkpoint {
    /// Adds `term` to every value: norms that are published as what is added to one.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that holds no floats.
    pub fn add(&mut self, which: impl Fn(&str) -> bool, term: f32) -> Result<()> {
        self.map(which, move |x| Ok(x.add(Array::from_f32(term))?))
    }

    /// As [`Checkpoint::add`], rounded to the type that is stored: as tools compute that add to what they have loaded.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that holds no floats.
    pub fn add_rounded(&mut self, which: impl Fn(&str) -> bool, term: f32) -> Result<()> {
        for name in self.names(which) {
            let stored = self.get(&name).and_then(Tensor::dtype).unwrap_or(Dtype::Float32);
            let sum = move |x: &Array| Ok(x.add(Array::from_f32(term))?.as_dtype(stored)?);
            self.map(|other| other == name, sum)?;
        }
        Ok(())
    }

    /// Multiplies the tensors for which `factors` gives some: a single one for all values, or one for each entry of the first
    /// axis. Of packed weights the scales and biases are multiplied, or the global scale; name their `weight`.
    ///
    /// # Errors
    /// [`Error::Tensor`] for another number of factors, for a tensor that holds no floats, and for packed weights without
    /// biases or a global scale, whose scales have few bits.
    pub fn multiply(&mut self, factors: impl Fn(&str) -> Option<Vec<f32>>) -> Result<()> {
        for name in self.names(|_| true) {
            let Some(factors) = factors(&name) else { continue };
            let module = name.strip_suffix(".weight").unwrap_or(&name);
            let [scales, biases, global] =
                ["scales", "biases", "global_scale"].map(|part| format!("{module}.{part}"));
            if !self.contains(&scales) {
                self.multiply_one(&name, &factors)?;
            } else if self.contains(&biases) {
                self.multiply_one(&scales, &factors)?;
                self.multiply_one(&biases, &factors)?;
            } else if let Some(scale) = self.take(&global) {
                // One for all rows becomes one for each.
                let shape =
                    if factors.len() == 1 { scale.shape().to_vec() } else { vec![factors.len() as i32] };
                let source = Source::new(&global, scale, 1);
                let factors = Array::from_slice(&factors, &[factors.len() as i32]);
                let to = shape.clone();
                let compute = move |x: &[Array]| Ok(x[0].multiply(&factors)?.reshape(&to)?);
                self.put(
                    global,
                    Tensor::Derived(Derived::new(vec![source], shape, Dtype::Float32, compute)),
                )?;
            } else {
                let why = format!(
                    "is packed without biases, not as {}; it cannot be multiplied",
                    Mode::Affine.name()
                );
                return Err(Error::tensor(name, why));
            }
        }
        Ok(())
    }

    fn multiply_one(&mut self, name: &str, factors: &[f32]) -> Result<()> {
        let shape = self.get(name).map(Tensor::shape).unwrap_or_default();
        let shape = match (factors.len(), shape) {
            (1, _) => vec![],
            (n, [rows, rest @ ..]) if *rows as usize == n => [&[*rows][..], &vec![1; rest.len()]].concat(),
            (n, _) => {
                return Err(Error::tensor(
                    name,
                    format!("has shape {shape:?}, but there are {n} factors for its rows"),
                ));
            }
        };
        let factors = factors.to_vec();
        self.map(|other| other == name, move |x| Ok(x.multiply(Array::from_slice(&factors, &shape))?))
    }

    /// Computes a tensor from itself, in float32. The shape must stay.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that holds no floats.
    pub fn map(
        &mut self,
        which: impl Fn(&str) -> bool,
        f: impl Fn(&Array) -> Result<Array> + Clone + 'static,
    ) -> Result<()> {
        for name in self.names(which) {
            let Some(tensor) = self.take(&name) else { continue };
            // Quantized blocks of a GGUF file are found out when they are read.
            if !tensor.dtype().or(tensor.float_type()).is_some_and(is_float) {
                return Err(Error::tensor(name, format!("holds no floats but {:?}", tensor.dtype())));
            }
            let (f, shape) = (f.clone(), tensor.shape().to_vec());
            let source = Source::new(&name, tensor, 1);
            let compute =
                move |x: &[Array]| Ok(f(&x[0].as_dtype(Dtype::Float32)?)?.as_dtype(Dtype::Float32)?);
            self.put(name, Tensor::Derived(Derived::new(vec![source], shape, Dtype::Float32, compute)))?;
        }
        Ok(())
    }
}
