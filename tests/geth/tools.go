// Package tools pins geth, the most used client of Ethereum, for the tests: see build.
//
// 1.17.8 is the newest whose requirements all come from the public module proxy: later ones ask for
// github.com/attestantio/go-eth2-client, which the proxy refuses.
package tools

import _ "github.com/ethereum/go-ethereum/cmd/geth"
