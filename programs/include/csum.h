/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Internet checksums, whole and incremental (RFC 1071, RFC 1624). */
#ifndef EARLYBIRD_CSUM_H
#define EARLYBIRD_CSUM_H

#include "base.h"

/* Folds a sum of 16-bit words; twice is enough, the first fold leaves at most one carry. */
static __always_inline __sum16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(__u16)sum;
}

/* The checksum after one 16-bit word of what it covers changed: HC' = ~(~HC + ~m + m'). */
static __always_inline void csum_replace2(__sum16 *check, __be16 from, __be16 to)
{
	*check = csum_fold((__u64)(__u16)~*check + (__u16)~from + to);
}

static __always_inline void csum_replace4(__sum16 *check, __be32 from, __be32 to)
{
	*check = csum_fold((__u64)(__u16)~*check + (__u32)~from + to);
}

/* Checksum of an IPv4 header without options whose check field is 0. */
static __always_inline __sum16 csum_ipv4(struct iphdr *ip)
{
	return csum_fold((__u64)bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0));
}

#endif
