// SPDX-License-Identifier: MIT OR Apache-2.0
// Checks an account's signature: its own key's ECDSA first, which is cheapest, else ERC-1271.
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

library Signatures {
    /// @notice Whether `account` signed `digest`.
    /// @dev An account that runs code under EIP-7702 may sign with its key as well as by ERC-1271.
    function isBy(bytes calldata signature, address account, bytes32 digest) internal view returns (bool) {
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        return (failure == ECDSA.RecoverError.NoError && signer == account)
            || SignatureChecker.isValidERC1271SignatureNow(account, digest, signature);
    }
}
