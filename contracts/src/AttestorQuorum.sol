// SPDX-License-Identifier: MIT OR Apache-2.0
// Answers ERC-1271 for m of n attestor keys that never change.
pragma solidity ^0.8.28;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IAttestorQuorum} from "../interfaces/IAttestorQuorum.sol";

contract AttestorQuorum is IAttestorQuorum {
    bytes4 private constant INVALID = 0xffffffff;
    uint256 private constant SIGNATURE_LENGTH = 65;

    /// @inheritdoc IAttestorQuorum
    uint256 public immutable threshold;

    /* STORAGE */

    address[] private _members;
    /// @inheritdoc IAttestorQuorum
    mapping(address account => bool) public isAttestor;

    /// @param members_ Ascending, without zero and without duplicates.
    constructor(address[] memory members_, uint256 threshold_) {
        require(threshold_ > 0 && threshold_ <= members_.length, ThresholdInvalid(threshold_, members_.length));
        address previous = address(0);
        for (uint256 i = 0; i < members_.length; ++i) {
            require(members_[i] > previous, MembersUnordered(previous, members_[i]));
            previous = members_[i];
            isAttestor[previous] = true;
        }
        _members = members_;
        threshold = threshold_;
    }

    /// @inheritdoc IAttestorQuorum
    function members() external view returns (address[] memory) {
        return _members;
    }

    /// @inheritdoc IAttestorQuorum
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != threshold * SIGNATURE_LENGTH) return INVALID;
        address previous = address(0);
        for (uint256 offset = 0; offset < signature.length; offset += SIGNATURE_LENGTH) {
            (address signer, ECDSA.RecoverError failure,) =
                ECDSA.tryRecoverCalldata(digest, signature[offset:offset + SIGNATURE_LENGTH]);
            // Ascending signers can't be counted twice.
            if (failure != ECDSA.RecoverError.NoError || signer <= previous || !isAttestor[signer]) return INVALID;
            previous = signer;
        }
        return IERC1271.isValidSignature.selector;
    }
}
