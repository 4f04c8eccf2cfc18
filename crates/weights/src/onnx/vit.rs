//! The operations of a vision transformer.

use backbones::VitConfig;
use backbones::vit::Pooling;

use super::graph::{Graph, float, int, ints};
use super::{ONNX_EMBEDDING, ONNX_TOKENS, Tensors};

/// Writes the network from normalized images to its tokens and its embedding.
pub(super) fn write(graph: &mut Graph, config: &VitConfig, network: &Tensors, images: &str) {
    let network = Network {
        config,
        tensors: network,
    };
    let mut x = network.embed(graph, images);
    for number in 0..config.depth {
        x = network.block(graph, &x, &format!("blocks.{number}"));
    }
    let tokens = graph.name_of_output(ONNX_TOKENS);
    network.norm(graph, "norm", &tokens, &x);
    let embedding = graph.name_of_output(ONNX_EMBEDDING);
    match config.pooling {
        Pooling::ClassToken => {
            let first = graph.integer("class.index", 0);
            graph.node("Gather", &embedding, &[&tokens, &first], vec![int("axis", 1)]);
        }
        Pooling::Mean => network.mean(graph, &tokens, &embedding),
        Pooling::MeanThenNorm => {
            network.mean(graph, &x, "patches.mean");
            network.norm_again(graph, &embedding, "patches.mean");
        }
    }
}

struct Network<'a> {
    config: &'a VitConfig,
    tensors: &'a Tensors,
}

impl Network<'_> {
    /// Tokens before the patches.
    fn before(&self) -> usize {
        1 + self.config.registers
    }

    /// Images to the tokens that enter the first block. Patches get a place for class token and registers by padding with
    /// zeros, to which the tokens themselves are added as if they were positions: so no operation needs the batch's size.
    fn embed(&self, graph: &mut Graph, images: &str) -> String {
        let (width, patch) = (self.config.width, self.config.patch_px as i64);
        let grid = self.config.image_px / self.config.patch_px;
        let places = grid * grid;
        let (shape, weight) = self.tensors.get("patch_embed.proj.weight");
        let weight = graph.weight("patch_embed.proj.weight", &shape, &weight);
        let bias = self.constant(graph, "patch_embed.proj.bias");
        let attributes = vec![
            ints("kernel_shape", &[patch, patch]),
            ints("strides", &[patch, patch]),
        ];
        let x = graph.node("Conv", "patch_embed.proj", &[images, &weight, &bias], attributes);
        // 0: the batch's size, as it is.
        let flat = graph.integers("patch_embed.shape", &[0, width as i64, places as i64]);
        let x = graph.node("Reshape", "patch_embed.flat", &[&x, &flat], vec![]);
        let x = graph.node("Transpose", "patch_embed", &[&x], vec![ints("perm", &[0, 2, 1])]);
        let pads = graph.integers("tokens.pads", &[0, self.before() as i64, 0, 0, 0, 0]);
        let x = graph.node("Pad", "tokens.padded", &[&x, &pads], vec![]);
        let tokens = self.tokens_and_positions(width);
        let added = graph.weight("tokens.added", &[1, self.before() + places, width], &tokens);
        graph.node("Add", "tokens.embedded", &[&x, &added], vec![])
    }

    /// Class token with its position, registers, and the patches' positions.
    fn tokens_and_positions(&self, width: usize) -> Vec<f32> {
        let (_, mut tokens) = self.tensors.get("cls_token");
        let (_, positions) = self.tensors.get("pos_embed");
        // With registers the class token has no position.
        let of_class = if self.config.registers == 0 { width } else { 0 };
        let (of_class, of_patches) = positions.split_at(of_class);
        for (value, position) in tokens.iter_mut().zip(of_class) {
            *value += position;
        }
        if self.config.registers > 0 {
            tokens.extend(self.tensors.get("reg_token").1);
        }
        tokens.extend(of_patches);
        tokens
    }

    fn block(&self, graph: &mut Graph, x: &str, at: &str) -> String {
        let normalized = self.norm(graph, &format!("{at}.norm1"), &format!("{at}.norm1"), x);
        let branch = self.attention(graph, &normalized, &format!("{at}.attn"));
        let x = self.joined(graph, x, &branch, at, 1);
        let normalized = self.norm(graph, &format!("{at}.norm2"), &format!("{at}.norm2"), &x);
        let hidden = self.linear(graph, &normalized, &format!("{at}.mlp.fc1"));
        let hidden = gelu(graph, &hidden, &format!("{at}.mlp.gelu"));
        let branch = self.linear(graph, &hidden, &format!("{at}.mlp.fc2"));
        self.joined(graph, &x, &branch, at, 2)
    }

    /// A branch, scaled where the network has factors, added to its input.
    fn joined(&self, graph: &mut Graph, x: &str, branch: &str, at: &str, number: usize) -> String {
        let branch = match self.config.layer_scale {
            Some(_) => {
                let factors = self.constant(graph, &format!("{at}.ls{number}.gamma"));
                graph.node("Mul", &format!("{at}.ls{number}"), &[branch, &factors], vec![])
            }
            None => branch.to_owned(),
        };
        graph.node("Add", &format!("{at}.add{number}"), &[x, &branch], vec![])
    }

    /// `softmax(q·kᵀ / √channels) · v` for each head, side by side, then a linear map.
    fn attention(&self, graph: &mut Graph, x: &str, at: &str) -> String {
        let (width, heads) = (self.config.width, self.config.heads);
        let channels = width / heads;
        let qkv = self.linear(graph, x, &format!("{at}.qkv"));
        let parts = graph.thirds(&format!("{at}.split"), &qkv, width);
        let apart = graph.integers(&format!("{at}.heads"), &[0, 0, heads as i64, channels as i64]);
        let [queries, keys, values] = parts.map(|part| {
            let by_head = graph.node("Reshape", &format!("{part}.heads"), &[&part, &apart], vec![]);
            // Keys come out transposed.
            let order = if part.ends_with(".key") {
                [0, 2, 3, 1]
            } else {
                [0, 2, 1, 3]
            };
            let perm = vec![ints("perm", &order)];
            graph.node("Transpose", &format!("{part}.transposed"), &[&by_head], perm)
        });
        let scale = (channels as f64).powf(-0.5) as f32;
        let scale = graph.weight(&format!("{at}.scale"), &[], &[scale]);
        let queries = graph.node("Mul", &format!("{at}.scaled"), &[&queries, &scale], vec![]);
        let scores = graph.node("MatMul", &format!("{at}.scores"), &[&queries, &keys], vec![]);
        let shares = graph.node(
            "Softmax",
            &format!("{at}.softmax"),
            &[&scores],
            vec![int("axis", -1)],
        );
        let mixed = graph.node("MatMul", &format!("{at}.mixed"), &[&shares, &values], vec![]);
        let perm = vec![ints("perm", &[0, 2, 1, 3])];
        let mixed = graph.node("Transpose", &format!("{at}.by_token"), &[&mixed], perm);
        let together = graph.integers(&format!("{at}.width"), &[0, 0, width as i64]);
        let mixed = graph.node("Reshape", &format!("{at}.joined"), &[&mixed, &together], vec![]);
        self.linear(graph, &mixed, &format!("{at}.proj"))
    }

    /// `x·Wᵀ + b`; the weights are stored transposed, because `MatMul` does not transpose.
    fn linear(&self, graph: &mut Graph, x: &str, at: &str) -> String {
        let (shape, weight) = self.tensors.get(&format!("{at}.weight"));
        let [outputs, inputs] = [shape[0], shape[1]];
        let mut transposed = vec![0.0; weight.len()];
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            for (input, value) in row.iter().enumerate() {
                transposed[input * outputs + output] = *value;
            }
        }
        let weight = graph.weight(&format!("{at}.weight"), &[inputs, outputs], &transposed);
        let bias = self.constant(graph, &format!("{at}.bias"));
        let product = graph.node("MatMul", &format!("{at}.product"), &[x, &weight], vec![]);
        graph.node("Add", at, &[&product, &bias], vec![])
    }

    /// The norm `at` of `x`, under `name`.
    fn norm(&self, graph: &mut Graph, at: &str, name: &str, x: &str) -> String {
        let weight = self.constant(graph, &format!("{at}.weight"));
        let bias = self.constant(graph, &format!("{at}.bias"));
        graph.node(
            "LayerNormalization",
            name,
            &[x, &weight, &bias],
            self.norm_attributes(),
        )
    }

    /// The last norm once more, with its constants.
    fn norm_again(&self, graph: &mut Graph, name: &str, x: &str) {
        let attributes = self.norm_attributes();
        graph.node(
            "LayerNormalization",
            name,
            &[x, "norm.weight", "norm.bias"],
            attributes,
        );
    }

    fn norm_attributes(&self) -> Vec<crate::format::messages::AttributeProto> {
        vec![int("axis", -1), float("epsilon", self.config.epsilon() as f32)]
    }

    /// The mean of the patches' tokens.
    fn mean(&self, graph: &mut Graph, tokens: &str, name: &str) {
        let first = graph.integers("patches.first", &[self.before() as i64]);
        let end = graph.integers("patches.end", &[i64::MAX]);
        let axis = graph.integers("patches.axis", &[1]);
        let patches = graph.node("Slice", "patches", &[tokens, &first, &end, &axis], vec![]);
        let attributes = vec![ints("axes", &[1]), int("keepdims", 0)];
        graph.node("ReduceMean", name, &[&patches], attributes);
    }

    fn constant(&self, graph: &mut Graph, name: &str) -> String {
        let (shape, values) = self.tensors.get(name);
        graph.weight(name, &shape, &values)
    }
}

/// `x/2 · (1 + erf(x/√2))`: the operator `Gelu` came with opset 20.
fn gelu(graph: &mut Graph, x: &str, at: &str) -> String {
    let root = graph.weight(&format!("{at}.root"), &[], &[std::f32::consts::SQRT_2]);
    let one = graph.weight(&format!("{at}.one"), &[], &[1.0]);
    let half = graph.weight(&format!("{at}.half"), &[], &[0.5]);
    let scaled = graph.node("Div", &format!("{at}.scaled"), &[x, &root], vec![]);
    let erf = graph.node("Erf", &format!("{at}.erf"), &[&scaled], vec![]);
    let sum = graph.node("Add", &format!("{at}.sum"), &[&erf, &one], vec![]);
    let product = graph.node("Mul", &format!("{at}.product"), &[x, &sum], vec![]);
    graph.node("Mul", at, &[&product, &half], vec![])
}
