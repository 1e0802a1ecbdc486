// SPDX-License-Identifier: MIT OR Apache-2.0
// Gas of the calls that users pay for, as whole transactions; forge writes them to contracts/snapshots/.
pragma solidity ^0.8.28;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {Batch, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {Member, VersionContent} from "../interfaces/IIPRegistry.sol";
import {RoyaltyClaim} from "../interfaces/ILicenseRegistry.sol";
import {Claim, Permit} from "../interfaces/IRewardPool.sol";
import {AttestorQuorum} from "../src/AttestorQuorum.sol";
import {PointsTreasury} from "../src/PointsTreasury.sol";
import {Fixture} from "./Fixture.sol";

contract GasTest is Fixture {
    uint256 private constant DEPTH = 20;

    function snapshot(string memory name) private {
        vm.snapshotGasLastCall("Gas", name);
    }

    /// @dev A genuine path of a tree with 2^20 leaves; its other leaves are nobody's.
    function pathOf(bytes32 leaf) private pure returns (bytes32[] memory proof, bytes32 root) {
        proof = new bytes32[](DEPTH);
        root = climb(proof, leaf, DEPTH);
    }

    /// @dev Fills the lowest levels of a proof with siblings of nobody's.
    function climb(bytes32[] memory proof, bytes32 leaf, uint256 levels) private pure returns (bytes32 node) {
        node = leaf;
        for (uint256 i = 0; i < levels; ++i) {
            proof[i] = keccak256(abi.encode("sibling", leaf, i));
            node = Hashes.commutativeKeccak256(node, proof[i]);
        }
    }

    /// @dev Anchors one batch whose tree has this event.
    function anchorOver(uint64 task, ProvenanceEvent memory e) private returns (uint64 number, bytes32[] memory proof) {
        number = log.providerOf(provider).nextBatch;
        Batch memory batch = aPaidBatch(number, task, PRICE, 64 * PRICE);
        (proof, batch.root) = pathOf(log.leafOf(e));
        batch.eventCount = 1 << 20;
        anchor(batch);
    }

    function test_Anchor() external {
        uint64 task = aTask(1000 * PRICE);
        // The first batch pays for the slots that only the first one fills.
        anchor(aPaidBatch(0, task, PRICE, PRICE));
        Batch memory batch = aPaidBatch(1, task, PRICE, 64 * PRICE);
        batch.eventCount = 1;
        anchor(batch);
        snapshot("anchor: one debit, points and wallet, 1 event");
        batch = aPaidBatch(2, task, PRICE, 64 * PRICE);
        batch.eventCount = 65_536;
        anchor(batch);
        snapshot("anchor: one debit, points and wallet, 65,536 events");
        anchor(aPaidBatch(3, task, PRICE, 0));
        snapshot("anchor: one debit, points only");
        anchor(aBatch(4));
        snapshot("anchor: no rewards");
    }

    function test_AnchorByQuorum() external {
        (address[] memory members, uint256[] memory keys) = threeMembers();
        AttestorQuorum quorum = new AttestorQuorum(members, 2);
        vm.prank(provider);
        log.setAttestor(address(quorum));
        uint64 task = aTask(1000 * PRICE);
        for (uint64 number = 0; number < 2; ++number) {
            Batch memory batch = aPaidBatch(number, task, PRICE, 64 * PRICE);
            bytes32 digest = log.digestOf(batch);
            log.anchor(batch, bytes.concat(sign(keys[0], digest), sign(keys[2], digest)));
        }
        snapshot("anchor: one debit, points and wallet, quorum 2 of 3");
    }

    function threeMembers() private pure returns (address[] memory members, uint256[] memory keys) {
        members = new address[](3);
        keys = new uint256[](3);
        for (uint256 i = 0; i < 3; ++i) {
            keys[i] = keyOf(i == 0 ? "a" : i == 1 ? "b" : "c");
            members[i] = vm.addr(keys[i]);
        }
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                if (members[j] < members[i]) {
                    (members[i], members[j]) = (members[j], members[i]);
                    (keys[i], keys[j]) = (keys[j], keys[i]);
                }
            }
        }
    }

    function test_Claims() external {
        uint64 task = aTask(10_000 * PRICE);
        ProvenanceEvent memory e = anEvent(700_001, payee, PRICE);
        (uint64 number, bytes32[] memory proof) = anchorOver(task, e);
        log.claim(provider, number, e, proof);
        snapshot("claim: first of 256, new payee, depth 20");
        e = anEvent(700_002, payee, PRICE);
        (number, proof) = anchorOver(task, e);
        log.claim(provider, number, e, proof);
        snapshot("claim: first of 256, known payee, depth 20");
    }

    /// 20 records of one person in 20 batches: the dearest way they can lie.
    function test_ClaimMany() external {
        uint64 task = aTask(100_000 * PRICE);
        Claim[] memory claims = new Claim[](20);
        for (uint32 i = 0; i < claims.length; ++i) {
            ProvenanceEvent memory e = anEvent(700_000 + i * 1000, payee, PRICE);
            (uint64 number, bytes32[] memory proof) = anchorOver(task, e);
            claims[i] = Claim({provider: provider, number: number, e: e, proof: proof});
        }
        log.claimMany(claims);
        snapshot("claimMany: 20 in 20 batches, new payee, depth 20");
    }

    /// 20 records of one person in one batch, each in a bitmap word of its own.
    function test_ClaimManyOfOneBatch() external {
        Claim[] memory claims = new Claim[](20);
        // The upper 5 levels: node 1 is the root, nodes 32 to 63 are the roots of paths of 15 levels.
        bytes32[] memory top = new bytes32[](64);
        for (uint32 i = 0; i < 32; ++i) {
            top[32 + i] = keccak256(abi.encode("nobody's", i));
            if (i >= claims.length) continue;
            ProvenanceEvent memory e = anEvent(700_000 + i * 1000, payee, PRICE);
            bytes32[] memory proof = new bytes32[](DEPTH);
            top[32 + i] = climb(proof, log.leafOf(e), DEPTH - 5);
            claims[i] = Claim({provider: provider, number: 1, e: e, proof: proof});
        }
        for (uint256 node = 31; node > 0; --node) {
            top[node] = Hashes.commutativeKeccak256(top[2 * node], top[2 * node + 1]);
        }
        for (uint256 i = 0; i < claims.length; ++i) {
            for (uint256 level = 0; level < 5; ++level) {
                claims[i].proof[DEPTH - 5 + level] = top[((32 + i) >> level) ^ 1];
            }
        }
        uint64 task = aTask(10_000 * PRICE);
        anchor(aPaidBatch(0, task, PRICE, PRICE));
        Batch memory batch = aPaidBatch(1, task, PRICE, 64 * PRICE);
        (batch.root, batch.eventCount) = (top[1], 1 << 20);
        anchor(batch);
        log.claimMany(claims);
        snapshot("claimMany: 20 of one batch, new payee, depth 20");
    }

    function test_Tasks() external {
        fund(sponsor, address(log), 10 * PRICE);
        vm.prank(sponsor);
        log.createTask(provider, PRICE, uint64(NOW + 1 days), "terms", "ipfs://t", PRICE);
        vm.prank(sponsor);
        log.createTask(provider, PRICE, uint64(NOW + 1 days), "terms", "ipfs://t", PRICE);
        snapshot("createTask");
        vm.prank(sponsor);
        log.fundTask(1, PRICE);
        snapshot("fundTask");
        anchor(aPaidBatch(0, 1, PRICE, 0));
        log.sweepPoints(provider);
        snapshot("sweepPoints: first");
    }

    /// @dev A version of `count` members of equal weight, of which the first is proven by a path of depth 20.
    function aVersionOf(uint32 count, address to)
        private
        view
        returns (Member memory member, bytes32[] memory proof, VersionContent memory content)
    {
        member = aMember(count, to, 10);
        (proof, content.root) = pathOf(ips.memberLeafOf(member));
        content.memberCount = count;
        content.totalWeight = uint128(count) * 10;
        content.pointsWeight = content.totalWeight / 5;
        content.purposes = 31;
        content.manifestCid = CID;
    }

    function test_Sales() external {
        (,, VersionContent memory content) = aVersionOf(10, payee);
        uint256 ipId = register(content);
        snapshot("registerDataset");
        uint64 offerId = offer(ipId, someTerms());
        snapshot("publishOffer");
        sell(ipId, offerId, 1000e6);
        snapshot("buy: first of a version, 10 members");
        sell(ipId, offerId, 1000e6);
        snapshot("buy: 10 members");
        (Member memory member, bytes32[] memory proof, VersionContent memory big) = aVersionOf(1_000_000, payee);
        addVersion(ipId, big);
        snapshot("registerVersion");
        sell(ipId, offerId, 1000e6);
        snapshot("buy: first of a version, 1,000,000 members");
        sell(ipId, offerId, 1000e6);
        snapshot("buy: 1,000,000 members");
        token.mint(stranger, 1000e6);
        Permit memory permit = permitOf(keyOf("stranger"), address(licenses), 1000e6);
        vm.prank(stranger);
        licenses.buyWithPermit(offerId, 2, 1000e6, stranger, permit);
        snapshot("buyWithPermit: new buyer");

        licenses.claimRoyalty(ipId, 2, member, proof);
        snapshot("claimRoyalty: first, new payee, depth 20");
        sell(ipId, offerId, 1000e6);
        licenses.claimRoyalty(ipId, 2, member, new bytes32[](0));
        snapshot("claimRoyalty: later");
    }

    function test_ClaimRoyalties() external {
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](20);
        uint256 ipId = 0;
        uint64 offerId = 0;
        for (uint32 i = 0; i < claims.length; ++i) {
            (Member memory member, bytes32[] memory proof, VersionContent memory content) = aVersionOf(1000 + i, payee);
            if (ipId == 0) {
                ipId = register(content);
                offerId = offer(ipId, someTerms());
            } else {
                addVersion(ipId, content);
            }
            sell(ipId, offerId, 1000e6);
            claims[i] = RoyaltyClaim({ipId: ipId, version: i + 1, member: member, proof: proof});
        }
        licenses.claimRoyalties(claims);
        snapshot("claimRoyalties: 20 versions, first, new payee, depth 20");
        for (uint256 i = 0; i < claims.length; ++i) {
            claims[i].proof = new bytes32[](0);
        }
        sell(ipId, offerId, 1000e6);
        licenses.claimRoyalties(claims);
    }

    function test_Registration() external {
        PointsTreasury other = new PointsTreasury(address(log), stranger, address(token), operator);
        vm.prank(stranger);
        log.registerProvider("other", attestor, address(other), address(token), 1 days);
        snapshot("registerProvider");
        ProvenanceEvent memory e = anEvent(0, payee, 0);
        Batch memory batch = aBatch(0);
        batch.root = log.leafOf(e);
        anchor(batch);
        vm.prank(payee);
        ips.registerContribution(provider, 0, e, new bytes32[](0));
        snapshot("registerContribution");
    }
}
