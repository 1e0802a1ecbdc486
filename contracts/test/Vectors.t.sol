// SPDX-License-Identifier: MIT OR Apache-2.0
// The vectors in tests/vectors, which Rust and JavaScript check too: leaves, proofs and EIP-712 digests.
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {ConsentRegistry} from "../src/ConsentRegistry.sol";
import {IPRegistry} from "../src/IPRegistry.sol";
import {Consent} from "../interfaces/IConsentRegistry.sol";
import {Member, VersionContent} from "../interfaces/IIPRegistry.sol";
import {Batch, ProvenanceEvent, TaskDebit} from "../interfaces/IProvenanceLog.sol";
import {ProvenanceLog} from "../src/ProvenanceLog.sol";
import {Fixture} from "./Fixture.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";

contract VectorsTest is Fixture {
    using StandardMerkleTree for bytes32[];
    using Strings for uint256;

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant VERDICT_TYPEHASH =
        keccak256("Verdict(bytes16 dataId,bytes32 contentHash,uint8 outcome,string gate,uint64 decidedAt)");
    bytes32 private constant RELEASE_TYPEHASH =
        keccak256("ReleaseRequest(uint256 licenseId,bytes16 dataId,bytes recipientKey,uint64 deadline)");

    string private json;

    /* LEAVES AND TREES */

    function test_EventsHashToTheirLeaves() external {
        read("trees.json");
        bytes32[] memory leaves = vm.parseJsonBytes32Array(json, ".events.leaves");
        assertGe(leaves.length, 20);
        checkTree(leaves, ".events");
        read("events.json");
        for (uint256 i = 0; i < leaves.length; ++i) {
            ProvenanceEvent memory e = eventAt(entry(i, ".event"));
            assertEq(keccak256(abi.encode(e)), vm.parseJsonBytes32(json, entry(i, ".abi_hash")));
            assertEq(log.leafOf(e), vm.parseJsonBytes32(json, entry(i, ".leaf")));
            assertEq(log.leafOf(e), leaves[i]);
        }
        assertFalse(vm.keyExistsJson(json, entry(leaves.length, "")));
    }

    function test_MembersHashToTheirLeaves() external {
        read("members.json");
        bytes32[] memory leaves = vm.parseJsonBytes32Array(json, ".tree.leaves");
        checkTree(leaves, ".tree");
        for (uint256 i = 0; i < leaves.length; ++i) {
            bytes32 leaf = ips.memberLeafOf(memberAt(entry(i, ".member")));
            assertEq(leaf, vm.parseJsonBytes32(json, entry(i, ".leaf")));
            assertEq(leaf, leaves[i]);
        }
        assertFalse(vm.keyExistsJson(json, entry(leaves.length, "")));
    }

    function test_TreesHaveTheirRootsAndProofs() external {
        read("trees.json");
        for (uint256 t = 0; vm.keyExistsJson(json, string.concat(".trees[", t.toString(), "]")); ++t) {
            string memory path = string.concat(".trees[", t.toString(), "]");
            checkTree(vm.parseJsonBytes32Array(json, string.concat(path, ".leaves")), path);
        }
    }

    /// @dev Root and proofs at a path are those of the leaves, and no proof fits another leaf.
    function checkTree(bytes32[] memory leaves, string memory path) private view {
        bytes32 root = vm.parseJsonBytes32(json, string.concat(path, ".root"));
        assertEq(leaves.build()[0], root);
        for (uint256 i = 0; i < leaves.length; ++i) {
            bytes32[] memory proof = vm.parseJsonBytes32Array(json, string.concat(path, ".proofs[", i.toString(), "]"));
            assertTrue(MerkleProof.verify(proof, root, leaves[i]));
            if (leaves.length > 1) assertFalse(MerkleProof.verify(proof, root, leaves[(i + 1) % leaves.length]));
        }
    }

    /* SIGNATURES */

    function test_ConsentsHaveTheirDigests() external {
        read("consents.json");
        ConsentRegistry registry = ConsentRegistry(placed(address(consents)));
        for (uint256 i = 0; exists(i); ++i) {
            bytes32 digest = registry.consentIdOf(consentAt(entry(i, ".message")));
            checkSigned(i, digest);
        }
    }

    function test_WithdrawalsHaveTheirDigests() external {
        read("withdrawals.json");
        ConsentRegistry registry = ConsentRegistry(placed(address(consents)));
        for (uint256 i = 0; exists(i); ++i) {
            checkSigned(i, registry.withdrawalDigestOf(vm.parseJsonBytes32(json, entry(i, ".message.consentId"))));
        }
    }

    function test_BatchesHaveTheirDigests() external {
        read("batches.json");
        ProvenanceLog placedLog = ProvenanceLog(placed(address(log)));
        for (uint256 i = 0; exists(i); ++i) {
            checkSigned(i, placedLog.digestOf(batchAt(entry(i, ".message"))));
        }
    }

    function test_DatasetVersionsHaveTheirDigestsAndIds() external {
        read("dataset_versions.json");
        IPRegistry registry = IPRegistry(placed(address(ips)));
        for (uint256 i = 0; exists(i); ++i) {
            string memory path = entry(i, ".message");
            VersionContent memory content = VersionContent({
                root: vm.parseJsonBytes32(json, string.concat(path, ".root")),
                memberCount: uint32(numberAt(path, ".memberCount")),
                totalWeight: uint128(numberAt(path, ".totalWeight")),
                pointsWeight: uint128(numberAt(path, ".pointsWeight")),
                purposes: uint32(numberAt(path, ".purposes")),
                manifestCid: vm.parseJsonBytes(json, string.concat(path, ".manifestCid"))
            });
            uint32 version = uint32(numberAt(path, ".version"));
            checkSigned(i, registry.digestOf(numberAt(path, ".ipId"), version, content));
        }
        for (uint256 i = 0; vm.keyExistsJson(json, string.concat(".dataset_ids[", i.toString(), "]")); ++i) {
            string memory path = string.concat(".dataset_ids[", i.toString(), "]");
            address owner = vm.parseJsonAddress(json, string.concat(path, ".provider"));
            string memory name = vm.parseJsonString(json, string.concat(path, ".name"));
            assertEq(registry.datasetIdOf(owner, name), numberAt(path, ".ip_id"));
        }
    }

    function test_VerdictsHaveTheirDigests() external {
        read("verdicts.json");
        // no contract reads verdicts: they only share the log's domain
        assertEq(domainSeparator(), separatorOf(ProvenanceLog(placed(address(log)))));
        for (uint256 i = 0; exists(i); ++i) {
            string memory path = entry(i, ".message");
            bytes32 hash = keccak256(
                abi.encode(
                    VERDICT_TYPEHASH,
                    dataIdAt(path),
                    vm.parseJsonBytes32(json, string.concat(path, ".contentHash")),
                    numberAt(path, ".outcome"),
                    keccak256(bytes(vm.parseJsonString(json, string.concat(path, ".gate")))),
                    numberAt(path, ".decidedAt")
                )
            );
            checkSigned(i, keccak256(abi.encodePacked(hex"1901", domainSeparator(), hash)));
        }
    }

    function test_ReleaseRequestsHaveTheirDigests() external {
        read("releases.json");
        for (uint256 i = 0; exists(i); ++i) {
            string memory path = entry(i, ".message");
            bytes32 hash = keccak256(
                abi.encode(
                    RELEASE_TYPEHASH,
                    numberAt(path, ".licenseId"),
                    dataIdAt(path),
                    keccak256(vm.parseJsonBytes(json, string.concat(path, ".recipientKey"))),
                    numberAt(path, ".deadline")
                )
            );
            checkSigned(i, keccak256(abi.encodePacked(hex"1901", domainSeparator(), hash)));
        }
    }

    /// @dev The digest is the vector's, and its signature is the signer's.
    function checkSigned(uint256 i, bytes32 digest) private view {
        assertEq(digest, vm.parseJsonBytes32(json, entry(i, ".digest")));
        address signer = ECDSA.recover(digest, vm.parseJsonBytes(json, entry(i, ".signature")));
        assertEq(signer, vm.parseJsonAddress(json, entry(i, ".signer")));
    }

    /// @dev The contract's code at the chain and address of the vectors' domain; OpenZeppelin's EIP712 adapts to both.
    function placed(address original) private returns (address target) {
        vm.chainId(vm.parseJsonUint(json, ".domain.chainId"));
        target = vm.parseJsonAddress(json, ".domain.verifyingContract");
        vm.etch(target, original.code);
    }

    /// @dev Of the vectors' domain, whoever verifies in it.
    function domainSeparator() private view returns (bytes32) {
        return keccak256(
            abi.encode(
                DOMAIN_TYPEHASH,
                keccak256(bytes(vm.parseJsonString(json, ".domain.name"))),
                keccak256(bytes(vm.parseJsonString(json, ".domain.version"))),
                vm.parseJsonUint(json, ".domain.chainId"),
                vm.parseJsonAddress(json, ".domain.verifyingContract")
            )
        );
    }

    function separatorOf(ProvenanceLog placedLog) private view returns (bytes32) {
        (, string memory name, string memory version, uint256 chainId, address verifier,,) = placedLog.eip712Domain();
        return
            keccak256(abi.encode(DOMAIN_TYPEHASH, keccak256(bytes(name)), keccak256(bytes(version)), chainId, verifier));
    }

    /* JSON */

    function read(string memory file) private {
        json = vm.readFile(string.concat("tests/vectors/", file));
    }

    function entry(uint256 i, string memory rest) private pure returns (string memory) {
        return string.concat(".vectors[", i.toString(), "]", rest);
    }

    function exists(uint256 i) private view returns (bool found) {
        found = vm.keyExistsJson(json, entry(i, ""));
        assertTrue(found || i > 0);
    }

    function numberAt(string memory path, string memory field) private view returns (uint256) {
        return vm.parseJsonUint(json, string.concat(path, field));
    }

    function dataIdAt(string memory path) private view returns (bytes16) {
        return bytes16(vm.parseJsonBytes(json, string.concat(path, ".dataId")));
    }

    function consentAt(string memory path) private view returns (Consent memory) {
        return Consent({
            contributor: vm.parseJsonAddress(json, string.concat(path, ".contributor")),
            provider: vm.parseJsonAddress(json, string.concat(path, ".provider")),
            policyHash: vm.parseJsonBytes32(json, string.concat(path, ".policyHash")),
            purposes: uint32(numberAt(path, ".purposes")),
            dataTypes: uint32(numberAt(path, ".dataTypes")),
            territory: vm.parseJsonBytes32(json, string.concat(path, ".territory")),
            validFrom: uint64(numberAt(path, ".validFrom")),
            validUntil: uint64(numberAt(path, ".validUntil")),
            nonce: numberAt(path, ".nonce")
        });
    }

    function batchAt(string memory path) private view returns (Batch memory batch) {
        batch.provider = vm.parseJsonAddress(json, string.concat(path, ".provider"));
        batch.number = uint64(numberAt(path, ".number"));
        batch.root = vm.parseJsonBytes32(json, string.concat(path, ".root"));
        batch.eventCount = uint32(numberAt(path, ".eventCount"));
        batch.pointsTotal = uint128(numberAt(path, ".pointsTotal"));
        batch.walletTotal = uint128(numberAt(path, ".walletTotal"));
        batch.manifestCid = vm.parseJsonBytes(json, string.concat(path, ".manifestCid"));
        uint256 count = 0;
        while (vm.keyExistsJson(json, debitAt(path, count))) ++count;
        batch.debits = new TaskDebit[](count);
        for (uint256 i = 0; i < count; ++i) {
            batch.debits[i] = TaskDebit({
                taskId: uint64(numberAt(debitAt(path, i), ".taskId")),
                amount: uint128(numberAt(debitAt(path, i), ".amount"))
            });
        }
    }

    function debitAt(string memory path, uint256 i) private pure returns (string memory) {
        return string.concat(path, ".debits[", i.toString(), "]");
    }

    function eventAt(string memory path) private view returns (ProvenanceEvent memory) {
        return ProvenanceEvent({
            index: uint32(numberAt(path, ".index")),
            dataId: dataIdAt(path),
            sequence: uint32(numberAt(path, ".sequence")),
            kind: uint8(numberAt(path, ".kind")),
            contributor: vm.parseJsonBytes32(json, string.concat(path, ".contributor")),
            contentHash: vm.parseJsonBytes32(json, string.concat(path, ".contentHash")),
            consentId: vm.parseJsonBytes32(json, string.concat(path, ".consentId")),
            commitment: vm.parseJsonBytes32(json, string.concat(path, ".commitment")),
            previous: vm.parseJsonBytes32(json, string.concat(path, ".previous")),
            occurredAt: uint64(numberAt(path, ".occurredAt")),
            taskId: uint64(numberAt(path, ".taskId")),
            reward: uint128(numberAt(path, ".reward")),
            payee: vm.parseJsonAddress(json, string.concat(path, ".payee"))
        });
    }

    function memberAt(string memory path) private view returns (Member memory) {
        return Member({
            dataId: dataIdAt(path),
            contributor: vm.parseJsonBytes32(json, string.concat(path, ".contributor")),
            consentId: vm.parseJsonBytes32(json, string.concat(path, ".consentId")),
            payee: vm.parseJsonAddress(json, string.concat(path, ".payee")),
            weight: uint96(numberAt(path, ".weight"))
        });
    }
}
