//! Another program's network in an ONNX file, on the CPU: numbers in, numbers out.

use std::io::Read;
use std::sync::Arc;

use tract_onnx::prelude::{
    Framework, InferenceModelExt, IntoRunnable, Tensor, TypedFact, TypedRunnableModel, tvec,
};

use crate::error::DetectionError;

/// A network ready to run.
#[derive(Debug)]
pub(crate) struct Network(Arc<TypedRunnableModel>);

impl Network {
    /// Reads an ONNX file.
    ///
    /// # Errors
    /// [`DetectionError::Onnx`] for what `tract` cannot read or run.
    pub(crate) fn read<R: Read>(source: &mut R) -> Result<Self, DetectionError> {
        let model = tract_onnx::onnx().model_for_read(source).map_err(onnx)?;
        let model = model.into_optimized().map_err(onnx)?;
        Ok(Self(model.into_runnable().map_err(onnx)?))
    }

    /// Shape of the first input, if the file fixes it.
    pub(crate) fn input_shape(&self) -> Result<Option<Vec<usize>>, DetectionError> {
        Ok(shape(self.0.model().input_fact(0).map_err(onnx)?))
    }

    /// Shape of the first output, if the file fixes it.
    pub(crate) fn output_shape(&self) -> Result<Option<Vec<usize>>, DetectionError> {
        Ok(shape(self.0.model().output_fact(0).map_err(onnx)?))
    }

    /// The first output for one input of `shape`.
    pub(crate) fn run(&self, shape: [usize; 4], input: &[f32]) -> Result<Vec<f32>, DetectionError> {
        let input = Tensor::from_shape(&shape, input).map_err(onnx)?;
        let outputs = self.0.run(tvec![input.into()]).map_err(onnx)?;
        let output = outputs[0].try_as_plain_ram().map_err(onnx)?;
        Ok(output.as_slice::<f32>().map_err(onnx)?.to_vec())
    }
}

fn shape(fact: &TypedFact) -> Option<Vec<usize>> {
    fact.shape.as_concrete().map(<[usize]>::to_vec)
}

fn onnx(error: impl std::fmt::Display) -> DetectionError {
    // Alternate format: includes the causes.
    DetectionError::Onnx {
        reason: format!("{error:#}"),
        hint: None,
    }
}
