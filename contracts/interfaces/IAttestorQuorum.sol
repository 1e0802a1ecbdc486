// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title m of n attestor keys behind one ERC-1271 address.
interface IAttestorQuorum {
    error ThresholdInvalid(uint256 threshold, uint256 members);
    error MembersUnordered(address previous, address member);

    function threshold() external view returns (uint256);
    function members() external view returns (address[] memory);
    function isAttestor(address account) external view returns (bool);

    /// @notice ERC-1271. The signature is `threshold` 65-byte ECDSA signatures over `digest`, ascending by signer.
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4);
}
