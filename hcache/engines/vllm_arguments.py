"""Arguments of vLLM's that a model may be given under `engine_args`, and what each of them is.

Those under `NEUTRAL` change how fast, where and with how much memory the same computation runs; its
rounding may differ, as it does between devices and versions, which is provenance. All others can
change a reply and are part of an arm's fingerprint, those of later versions of vLLM too. Arguments
under `OURS` are refused: what they set has a setting of its own.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from pydantic import JsonValue

from hcache.config.schema import ModelConfig
from hcache.errors import ConfigError, EngineError
from hcache.plugins import did_you_mean

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of LoRA adapters, that vLLM keeps room for

_MEMORY = """
    block_size cpu_offload_gb cpu_offload_params enable_cumem_allocator enable_sleep_mode
    gpu_memory_utilization kv_cache_memory_bytes max_cpu_loras max_loras num_gpu_blocks_override
    offload_backend offload_group_size offload_num_in_group offload_params offload_prefetch_step
    sleep_mode_offload_cudagraph swap_space watermark
"""
_PARALLELISM = """
    all2all_backend cp_kv_cache_interleave_size cpu_distributed_timeout_seconds
    data_parallel_address data_parallel_backend data_parallel_external_lb data_parallel_hybrid_lb
    data_parallel_multi_port_external_lb data_parallel_rank data_parallel_rpc_port
    data_parallel_size data_parallel_size_local data_parallel_start_rank
    dbo_decode_token_threshold dbo_prefill_token_threshold dcp_comm_backend
    dcp_kv_cache_interleave_size dcp_q_replicate decode_context_parallel_size device_ids
    disable_custom_all_reduce disable_nccl_for_dp_synchronization distributed_executor_backend
    distributed_timeout_seconds dp_sync_interval elastic_ep_max_dp_size enable_dbo
    enable_elastic_ep enable_ep_weight_filter enable_eplb enable_expert_parallel
    enable_nccl_comm_suspend enable_shm_tensor_arena eplb_config expert_placement_strategy
    fully_sharded_loras master_addr master_port nnodes node_rank numa_bind numa_bind_cpus
    numa_bind_nodes pipeline_parallel_size prefill_context_parallel_size
    ray_workers_use_nsight tensor_parallel_size ubatch_size
"""
_SCHEDULING = """
    async_scheduling disable_cascade_attn disable_hybrid_kv_cache_manager enable_chunked_prefill
    enable_prefix_caching long_prefill_token_threshold long_prefill_token_threshold_adaptive
    max_num_active_seqs max_num_batched_tokens max_num_queued_reqs max_num_queued_tokens
    max_num_scheduled_tokens max_num_seqs prefill_schedule_interval
    prefix_cache_retention_interval prefix_caching_hash_algo prefix_match_unit
    scheduler_reserve_full_isl scheduling_policy stream_interval
"""
_KERNELS = """
    attention_backend compilation_config cudagraph_capture_sizes enable_flashinfer_autotune
    enforce_eager linear_backend mamba_backend max_cudagraph_capture_size moe_backend
    optimization_level performance_mode specialize_active_lora
"""
_LOADING = """
    download_dir max_parallel_loading_workers safetensors_load_strategy
    safetensors_prefetch_block_size safetensors_prefetch_num_threads use_tqdm_on_load
"""
_LOGGING = """
    aggregate_engine_logging collect_detailed_traces cudagraph_metrics custom_histogram_buckets
    disable_log_stats enable_layerwise_nvtx_tracing enable_logging_iteration_details
    enable_mfu_metrics enable_mm_processor_stats fail_on_environ_validation jit_monitor_mode
    jit_monitor_verbose kv_cache_metrics kv_cache_metrics_sample kv_events_config log_config_file
    log_level logging_config max_logprobs otlp_traces_endpoint per_request_spec_decode_metrics
    profiler_config served_model_name show_hidden_metrics_for_version shutdown_timeout
"""
NEUTRAL = frozenset(
    f"{_MEMORY} {_PARALLELISM} {_SCHEDULING} {_KERNELS} {_LOADING} {_LOGGING}".split()
)

_PATHS = """
    default_mm_loras generation_config hf_config_path mm_encoder_fp8_scale_path model
    reasoning_parser_plugin spec_model tokenizer
"""
PATHS = frozenset(_PATHS.split())  # wherever they stand: `model` is that of `speculative_config`
"""Arguments by which vLLM reads files; what they name counts by its content."""

OURS: Mapping[str, str] = MappingProxyType(
    {
        "model": "Set models.{model}.path.",
        "model_weights": "Set models.{model}.path.",
        "dtype": "Set models.{model}.dtype.",
        "max_model_len": "Set models.{model}.max_model_len.",
        "quantization": "Set models.{model}.quantization.",
        "chat_template": "Set models.{model}.chat_template.",
        "enable_lora": "Set models.{model}.adapter, which turns it on.",
        "max_lora_rank": "Remove it: it follows from the adapter in models.{model}.adapter.",
        "seed": "Set arms.NAME.seed, from which each request has its own.",
        "override_generation_config": "Set temperature, top_p and max_tokens under arms.NAME.",
        "logprobs_mode": "Remove it: sampling.logprobs keeps those of the model's distribution.",
        "skip_tokenizer_init": "Remove it: prompts are rendered with the tokenizer.",
        "hf_token": "Remove it: models are read from this machine, and settings are stored.",
    }
)


def reply_arguments(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The `engine_args` that can change a reply."""
    return {name: value for name, value in arguments.items() if name not in NEUTRAL}


def check_arguments(model: ModelConfig, place: str) -> None:
    """Refuse `engine_args` that vLLM does not know, or that override a setting of ours.

    Raises:
        ConfigError: naming the argument and what to set; `place` is where the model stands.
    """
    known = _known() if model.engine_args else frozenset()
    for name in model.engine_args:
        where = f"{place}.engine_args.{name}"
        if name in OURS:
            hint = OURS[name].format(model=place.removeprefix("models."))
            raise ConfigError(f"{where}: overrides what hcache sets itself.", hint)
        if known and name not in known | NEUTRAL:
            near = did_you_mean(name, sorted(known - set(OURS))).partition("; known")[0]
            raise ConfigError(
                f"{where}: vLLM has no such argument{near.removesuffix(';')}.",
                "Remove it, or take one that https://docs.vllm.ai lists under `EngineArgs`.",
            )


@cache
def _known() -> frozenset[str]:
    """Names of the arguments of the vLLM installed; none where there is none.

    Read from the source, since importing vLLM takes seconds.
    """
    package = find_spec("vllm")
    folders = () if package is None else package.submodule_search_locations or ()
    for folder in folders:
        file = Path(folder) / "engine" / "arg_utils.py"
        if file.is_file():
            tree = ast.parse(file.read_text(encoding="utf-8"))
            return frozenset(name for node in tree.body for name in _fields(node))
    return frozenset()


def _fields(node: ast.stmt) -> list[str]:
    """The fields of the class `EngineArgs`, if this is its definition."""
    if not isinstance(node, ast.ClassDef) or node.name != "EngineArgs":
        return []
    return [
        line.target.id
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]


def rank_for(adapter: Path, place: str) -> int:
    """The rank that vLLM has to keep room for, to serve a LoRA adapter.

    Raises:
        EngineError: the folder holds no such adapter, or its rank is above the largest.
    """
    try:
        settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        rank = max([int(settings["r"]), *map(int, (settings.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EngineError(
            f"{place}.adapter: {adapter} is no LoRA adapter "
            f"(no rank `r` can be read from its adapter_config.json).",
            "Give a folder as written by PEFT's save_pretrained.",
        ) from error
    return room_for(rank, f"{place}.adapter: its rank is {rank}")


def room_for(rank: int, subject: str, hint: str = "Train an adapter of a smaller rank.") -> int:
    """The smallest rank of vLLM's that is not below this one; `subject` opens the error.

    Raises:
        EngineError: there is none.
    """
    if rank > RANKS[-1]:
        raise EngineError(f"{subject}; vLLM takes adapters of a rank up to {RANKS[-1]}.", hint)
    return min(allowed for allowed in RANKS if allowed >= rank)
