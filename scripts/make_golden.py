#!/usr/bin/env python3
"""Writes the reference models of tests/golden: what transformers and PyTorch compute in fp32 on the CPU.

    scripts/make_golden.py [--out tests/golden] [MODEL…]
    scripts/make_golden.py --half FOLDER…      how far PyTorch's own bf16 and fp16 are from the results in each folder

Needs torch, transformers and safetensors. tests/golden/README.md describes the files. The outputs are committed: tests read
them and never run this program.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

STEPS, WARMUP, LR, MIN_LR = 24, 4, 4e-3, 4e-4
BETAS, EPS, DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0

# name -> (config, B, T). initializer_range is larger than a real initialisation, so that errors show.
MODELS = {
    "gpt2_erf": (
        transformers.GPT2Config(
            vocab_size=97, n_positions=32, n_embd=32, n_layer=2, n_head=4, n_inner=96, activation_function="gelu",
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.1, bos_token_id=0, eos_token_id=0),
        3, 19),
    "llama_linear_rope": (
        transformers.LlamaConfig(
            vocab_size=64, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
            intermediate_size=40, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
            rope_parameters={"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0}, initializer_range=0.1),
        2, 40),
    "qwen3_tied": (
        transformers.Qwen3Config(
            vocab_size=72, hidden_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=16,
            intermediate_size=56, max_position_embeddings=48, rms_norm_eps=1e-6, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 50000.0}, initializer_range=0.1),
        4, 13),
}
# Written with the keys of transformers 4, as most files in the wild are.
OLDER_FORM = {"llama_linear_rope"}


def lr_at(step):
    """Linear warm-up that reaches LR at step WARMUP - 1, then a cosine to MIN_LR at step STEPS."""
    if step < WARMUP:
        return LR * (step + 1) / WARMUP
    return MIN_LR + 0.5 * (LR - MIN_LR) * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def make_model(config, attention):
    torch.manual_seed(20)
    config._attn_implementation = attention
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms start at 1 and biases at 0: move them, so that they count
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def make_tokens(vocabulary, batch, length, generator):
    """A walk with a few likely successors per token: there is something to learn, and all ids occur."""
    tokens = torch.randint(vocabulary, (batch, 1), generator=generator)
    while tokens.shape[1] < length:
        jump = torch.tensor([1, 7, 11])[torch.randint(3, (batch, 1), generator=generator)]
        anywhere = torch.randint(vocabulary, (batch, 1), generator=generator)
        stray = torch.rand(batch, 1, generator=generator) < 0.1
        tokens = torch.cat([tokens, torch.where(stray, anywhere, (3 * tokens[:, -1:] + jump) % vocabulary)], 1)
    return tokens


def loss_of(logits, targets):
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def copy_of(named):
    return {name: tensor.detach().clone().contiguous() for name, tensor in named}


def compute(masters, model, batch, curve_tokens, curve, scale=1.0):
    """All results of `model`. It is `masters` itself, or a copy in half precision, which takes their values, rounded,
    before each step and gives them its gradients; `scale`: of the loss."""
    named, mine = dict(masters.named_parameters()), dict(model.named_parameters())

    def backward(loss):
        (loss * scale).backward()
        for name, parameter in named.items():
            parameter.grad = mine[name].grad.float() / scale

    tokens, targets = batch
    logits = model(input_ids=tokens, use_cache=False).logits.float()
    loss = loss_of(logits, targets)
    backward(loss)
    gradients = copy_of((name, p.grad) for name, p in named.items())
    matrices = [p for p in named.values() if p.dim() >= 2]
    vectors = [p for p in named.values() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": curve["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}],
        lr=curve["lr_per_step"][0], betas=(curve["beta1"], curve["beta2"]), eps=curve["eps"])
    losses, norms = [], []
    for some, lr in zip(curve_tokens, curve["lr_per_step"]):
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(named[name])
                parameter.grad = None
        step_loss = loss_of(model(input_ids=some[:, :-1], use_cache=False).logits.float(), some[:, 1:])
        backward(step_loss)
        norms.append(torch.nn.utils.clip_grad_norm_(named.values(), curve["grad_clip"]).item())
        optimizer.step()
        losses.append(step_loss.item())
    return {"logits": logits.detach().contiguous(), "loss": loss.item(), "gradients": gradients, "losses": losses,
            "norms": norms, "final": copy_of(named.items())}


def norm_difference(a, b):
    return max(((a[n] - b[n]).norm() / b[n].norm().clamp_min(1e-30)).item() for n in a)


def relative(a, b):
    return max(abs(x - y) / abs(y) for x, y in zip(a, b))


def noise_of(one, other):
    return {
        "logits": ((one["logits"] - other["logits"]).abs().max() / other["logits"].abs().max()).item(),
        "loss": relative([one["loss"]], [other["loss"]]),
        "gradient": norm_difference(one["gradients"], other["gradients"]),
        "curve": relative(one["losses"], other["losses"]),
        "grad_norm": relative(one["norms"], other["norms"]),
        "final": norm_difference(one["final"], other["final"]),
    }


def to_older_form(path):
    config = json.loads(path.read_text())
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.38.0"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write(name, out):
    config, batch, length = MODELS[name]
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(11)
    first = make_tokens(config.vocab_size, batch, length + 1, generator)
    tokens, targets = first[:, :-1].contiguous(), first[:, 1:].contiguous()
    curve_tokens = torch.stack([make_tokens(config.vocab_size, batch, length + 1, generator) for _ in range(STEPS)])
    model = make_model(config, "eager")
    parameters = sum(p.numel() for p in model.parameters())
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name in OLDER_FORM:
        to_older_form(folder / "config.json")
    curve = {
        "optimizer": "AdamW", "beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "weight_decay": DECAY,
        "weight_decay_on": "parameters with two or more dims, embeddings included", "grad_clip": CLIP, "steps": STEPS,
        "lr": LR, "warmup_steps": WARMUP, "min_lr": MIN_LR, "schedule": "linear warm-up, then cosine",
        "lr_per_step": [lr_at(s) for s in range(STEPS)]}

    def results(attention):  # one model after the other: they share the configuration, which says the attention
        made = make_model(config, attention)
        return compute(made, made, (tokens, targets), curve_tokens, curve)

    eager, fused = results("eager"), results("sdpa")
    save_file({"tokens": tokens.int(), "targets": targets.int(), "logits": eager["logits"], "curve_tokens": curve_tokens.int()},
              folder / "golden.safetensors")
    save_file(eager["gradients"], folder / "grads.safetensors")
    save_file(eager["final"], folder / "final.safetensors")
    golden = {
        "model": name, "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
        "attention": "eager", "threads": 1, "dtype": "float32", "B": batch, "T": length, "parameters": parameters,
        "loss": eager["loss"],
        "curve": {**curve, "loss": eager["losses"], "grad_norm_before_clip": eager["norms"]},
        "noise": noise_of(fused, eager),
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{folder}: {parameters} parameters, {size / 1000:.0f} KB, loss {eager['losses'][0]:.4f} -> {eager['losses'][-1]:.4f}, "
          f"noise {', '.join(f'{k} {v:.1e}' for k, v in golden['noise'].items())}")


def without_attention_biases(named):
    return {name: t for name, t in named.items() if not name.endswith(("c_attn.bias", "k_proj.bias"))}


def print_half(folder):
    """The distances of PyTorch in half precision from a folder's results, with masters and loss scale as golden_check's."""
    golden = json.loads((folder / "golden.json").read_text())
    tensors = load_file(folder / "golden.safetensors")
    curve = golden["curve"]
    want = {"logits": tensors["logits"], "loss": golden["loss"], "gradients": load_file(folder / "grads.safetensors"),
            "losses": curve["loss"], "norms": curve["grad_norm_before_clip"], "final": load_file(folder / "final.safetensors")}
    batch = tensors["tokens"].long(), tensors["targets"].long()
    for dtype, scale in ((torch.bfloat16, 1.0), (torch.float16, 1024.0)):
        for attention in ("eager", "sdpa"):
            load = lambda: transformers.AutoModelForCausalLM.from_pretrained(
                folder, attn_implementation=attention, dtype=torch.float32).eval()
            got = compute(load(), load().to(dtype), batch, tensors["curve_tokens"].long(), curve, scale)
            distances = noise_of(got, want)
            distances["final_attention_bias"] = distances["final"]
            distances["final"] = norm_difference(without_attention_biases(got["final"]), want["final"])
            print(f"{folder.name} {dtype} {attention}: {', '.join(f'{k} {v:.1e}' for k, v in distances.items())}", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests/golden")
    arguments.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    arguments.add_argument("--half", type=Path, nargs="+", metavar="FOLDER", help="compare PyTorch's half precision instead")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    if given.half:
        for folder in given.half:
            print_half(folder)
        return
    for name in given.models or MODELS:
        write(name, given.out)


if __name__ == "__main__":
    main()
