// Package tools pins Kubo, the reference implementation of IPFS, for the tests: see build.
//
// The pinned github.com/cockroachdb/swiss is newer than the one Kubo names, which does not compile on Go 1.26.
package tools

import _ "github.com/ipfs/kubo/cmd/ipfs/kubo"
