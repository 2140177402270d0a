// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* ratelimit: a token bucket per source address, refilled by a timer.
 *
 * Every source starts with `burst` tokens, a packet takes one, and a packet that finds none is
 * dropped. A timer of the source's own puts `refill` tokens back every `period_ns`, up to `burst`.
 * A source that was silent for a whole period has its bucket, and its timer, taken away. No packet
 * asks for the time. What is not IP passes and takes nothing.
 *
 * The period is long on purpose: a run over a capture is over before the first refill, so the same
 * capture gives the same verdicts every time. For a network, take something like 100 ms.
 *
 * Maps: buckets (source address, IPv4 as v4-mapped, to its bucket), results (packets per enum
 * result and CPU).
 */
#include "include/flow.h"

volatile const __u32 burst = 100;
volatile const __u32 refill = 100;
volatile const __u64 period_ns = 10ull * 1000 * 1000 * 1000;

#define CLOCK_MONOTONIC 1

enum result {
	RESULT_NOT_IP,
	RESULT_WITHIN,
	RESULT_OVER,
	RESULT_NO_BUCKET, /* the table is full: sources without a bucket are let through */
	RESULTS,
};

struct source {
	__be32 addr[4];
};

struct bucket {
	struct bpf_timer timer;
	struct bpf_spin_lock lock; /* guards what follows */
	__u32 tokens;
	__u32 spent; /* since the last refill; 0 then means silence */
	__u32 zero;
	__u64 passed;
	__u64 dropped;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct source);
	__type(value, struct bucket);
} buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RESULTS);
	__type(key, __u32);
	__type(value, __u64);
} results SEC(".maps");

static __always_inline int verdict(enum result result, int action)
{
	count(&results, result);
	return action;
}

/* Runs in the timer's softirq, not in a packet's. Deleting the entry cancels its timer. */
static int refill_bucket(void *map, struct source *source, struct bucket *bucket)
{
	bool silent;

	bpf_spin_lock(&bucket->lock);
	silent = bucket->spent == 0;
	bucket->spent = 0;
	bucket->tokens += refill;
	if (bucket->tokens > burst)
		bucket->tokens = burst;
	bpf_spin_unlock(&bucket->lock);

	if (silent)
		bpf_map_delete_elem(map, source);
	else
		bpf_timer_start(&bucket->timer, period_ns, 0);
	return 0;
}

/* Whoever makes the entry starts its timer: two CPUs that see a new source at the same time find
 * out by bpf_timer_init(), which works once.
 */
static __noinline struct bucket *new_bucket(const struct source *source)
{
	struct bucket full = { .tokens = burst };
	struct bucket *bucket;

	bpf_map_update_elem(&buckets, source, &full, BPF_NOEXIST);
	bucket = bpf_map_lookup_elem(&buckets, source);
	if (bucket && !bpf_timer_init(&bucket->timer, &buckets, CLOCK_MONOTONIC)) {
		bpf_timer_set_callback(&bucket->timer, refill_bucket);
		bpf_timer_start(&bucket->timer, period_ns, 0);
	}
	return bucket;
}

static __always_inline bool take_token(struct bucket *bucket)
{
	bool within;

	bpf_spin_lock(&bucket->lock);
	bucket->spent++;
	within = bucket->tokens > 0;
	if (within) {
		bucket->tokens--;
		bucket->passed++;
	} else {
		bucket->dropped++;
	}
	bpf_spin_unlock(&bucket->lock);
	return within;
}

SEC("xdp")
int ratelimit(struct xdp_md *ctx)
{
	struct bucket *bucket;
	struct source source;
	struct flow_key flow;

	flow_of(ctx, &flow);
	if (!flow.family)
		return verdict(RESULT_NOT_IP, XDP_PASS);
	__builtin_memcpy(&source, flow.saddr, sizeof(source));
	bucket = bpf_map_lookup_elem(&buckets, &source);
	if (!bucket)
		bucket = new_bucket(&source);
	if (!bucket)
		return verdict(RESULT_NO_BUCKET, XDP_PASS);
	return take_token(bucket) ? verdict(RESULT_WITHIN, XDP_PASS) :
				    verdict(RESULT_OVER, XDP_DROP);
}

char _license[] SEC("license") = "Dual BSD/GPL";
