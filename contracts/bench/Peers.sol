// SPDX-License-Identifier: MIT OR Apache-2.0
// The peers' contracts as npm has them: the calls that are measured, and their deployment from the published bytecode.
pragma solidity ^0.8.28;

import {Test} from "../test/Vm.sol";

/* ETHEREUM ATTESTATION SERVICE */

struct AttestationRequestData {
    address recipient;
    uint64 expirationTime;
    bool revocable;
    bytes32 refUID;
    bytes data;
    uint256 value;
}

struct AttestationRequest {
    bytes32 schema;
    AttestationRequestData data;
}

struct MultiAttestationRequest {
    bytes32 schema;
    AttestationRequestData[] data;
}

interface IEAS {
    function attest(AttestationRequest calldata request) external payable returns (bytes32 uid);
    function multiAttest(MultiAttestationRequest[] calldata requests) external payable returns (bytes32[] memory uids);
    function timestamp(bytes32 data) external returns (uint64);
    function multiTimestamp(bytes32[] calldata data) external returns (uint64);
    function isAttestationValid(bytes32 uid) external view returns (bool);
    function getTimestamp(bytes32 data) external view returns (uint64);
}

interface ISchemaRegistry {
    function register(string calldata schema, address resolver, bool revocable) external returns (bytes32 uid);
}

/* UNISWAP */

interface IMerkleDistributor {
    function claim(uint256 index, address account, uint256 amount, bytes32[] calldata proof) external;
    function isClaimed(uint256 index) external view returns (bool);
}

/* OPENZEPPELIN 4 */

interface IPaymentSplitter {
    function release(address token, address account) external;
}

abstract contract Peers is Test {
    string private constant EAS = "node_modules/@ethereum-attestation-service/eas-contracts/artifacts/contracts/";

    function deployEAS() internal returns (IEAS eas, ISchemaRegistry schemas) {
        schemas = ISchemaRegistry(_deploy(string.concat(EAS, "SchemaRegistry.sol/SchemaRegistry.json"), ""));
        eas = IEAS(_deploy(string.concat(EAS, "EAS.sol/EAS.json"), abi.encode(schemas)));
    }

    function deployDistributor(address token, bytes32 root) internal returns (IMerkleDistributor) {
        return IMerkleDistributor(
            _deploy("node_modules/@uniswap/merkle-distributor/build/MerkleDistributor.json", abi.encode(token, root))
        );
    }

    function deploySplitter(address[] memory payees, uint256[] memory shares) internal returns (IPaymentSplitter) {
        return IPaymentSplitter(
            _deploy(
                "node_modules/openzeppelin-contracts-4/build/contracts/PaymentSplitter.json", abi.encode(payees, shares)
            )
        );
    }

    function _deploy(string memory artifact, bytes memory arguments) private returns (address peer) {
        bytes memory code = bytes.concat(vm.parseJsonBytes(vm.readFile(artifact), ".bytecode"), arguments);
        assembly ("memory-safe") {
            peer := create(0, add(code, 0x20), mload(code))
        }
        assertTrue(peer.code.length > 0);
    }
}
