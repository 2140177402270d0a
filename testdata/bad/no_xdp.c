// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A good BPF object, but not one for XDP: its only program is a socket filter. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("socket")
int keep_all(struct __sk_buff *skb)
{
	return skb->len;
}

char _license[] SEC("license") = "Dual BSD/GPL";
