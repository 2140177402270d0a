// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Global data: all kinds of sections, visible, static and hidden variables.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 limit = 77;
const volatile char greeting[8] = "hello";
__u64 counter = 5;
static volatile __u32 local = 6;
__u32 zeroed[10];
static volatile __u64 local_zeroed;
__u32 hidden_one __hidden = 9;
__u32 custom SEC(".data.custom") = 11;
static volatile __u32 only_static SEC(".data.quiet") = 12;
const volatile __u32 readonly SEC(".rodata.custom") = 13;
__u64 custom_zero SEC(".bss.custom");
__u32 only_hidden __hidden SEC(".data.hidden") = 14;
static const char *const names[] = { "one", "two" };

SEC("xdp")
int data(struct xdp_md *ctx)
{
	const char *name = names[ctx->rx_queue_index & 1];

	counter += limit + greeting[2] + local + local_zeroed;
	zeroed[3] = counter;
	custom += hidden_one + only_static + readonly + only_hidden;
	custom_zero++;
	local_zeroed++;
	bpf_printk("queue %s %d", name, ctx->rx_queue_index);
	return counter > limit ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
__u32 _version SEC("version") = 0x061200;
