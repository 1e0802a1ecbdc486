// Package tools pins local-kms, which speaks the API of AWS KMS, for the tests: see build.
//
// moto, the usual stand-in, signs the hash of what it is given also where that is a digest (MessageType DIGEST, in 5.2.5 "not
// yet implemented"): no chain takes that.
package tools

import _ "github.com/nsmithuk/local-kms"
