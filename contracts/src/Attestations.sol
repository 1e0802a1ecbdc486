// SPDX-License-Identifier: MIT OR Apache-2.0
// Checks an attestor's signature: its own key's ECDSA first, which is cheapest, else ERC-1271.
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

library Attestations {
    /// @notice Whether `attestor` signed `digest`.
    /// @dev An account that runs code under EIP-7702 may sign with its key as well as by ERC-1271.
    function isBy(bytes calldata signature, address attestor, bytes32 digest) internal view returns (bool) {
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        return (failure == ECDSA.RecoverError.NoError && signer == attestor)
            || SignatureChecker.isValidERC1271SignatureNow(attestor, digest, signature);
    }
}
