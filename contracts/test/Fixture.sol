// SPDX-License-Identifier: MIT OR Apache-2.0
// One deployment with a registered provider, and short ways to sign, anchor and sell in it.
pragma solidity ^0.8.28;

import {Authority} from "../src/Authority.sol";
import {ConsentRegistry} from "../src/ConsentRegistry.sol";
import {DevToken} from "../src/dev/DevToken.sol";
import {Disputes} from "../src/Disputes.sol";
import {IPRegistry} from "../src/IPRegistry.sol";
import {Member, VersionContent} from "../interfaces/IIPRegistry.sol";
import {Terms} from "../interfaces/ILicenseRegistry.sol";
import {Batch, ProvenanceEvent, TaskDebit} from "../interfaces/IProvenanceLog.sol";
import {Authorization, Permit} from "../interfaces/IRewardPool.sol";
import {LicenseRegistry} from "../src/LicenseRegistry.sol";
import {PointsTreasury} from "../src/PointsTreasury.sol";
import {ProvenanceLog} from "../src/ProvenanceLog.sol";
import {Renderer} from "../src/Renderer.sol";
import {Deploy} from "./Deploy.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";
import {Test} from "./Vm.sol";

abstract contract Fixture is Test {
    using StandardMerkleTree for bytes32[];

    uint256 internal constant NOW = 1_800_000_000;
    uint128 internal constant PRICE = 500e6;
    /// A CIDv1 of a UnixFS file: version, dag-pb, SHA-256, 32 bytes.
    bytes internal constant CID = hex"01701220aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    bytes32 private constant PERMIT_TYPEHASH =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");

    bytes32 private constant RECEIVE_TYPEHASH = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    uint64 internal constant PAUSER = 1;
    uint64 internal constant ARBITER = 2;

    Authority internal authority;
    ProvenanceLog internal log;
    Disputes internal disputes;
    ConsentRegistry internal consents;
    IPRegistry internal ips;
    LicenseRegistry internal licenses;
    PointsTreasury internal treasury;
    DevToken internal token;

    uint256 internal attestorKey = keyOf("attestor");
    address internal attestor = accountOf(attestorKey, "attestor");
    address internal provider = account("provider");
    address internal operator = account("operator");
    address internal sponsor = account("sponsor");
    address internal buyer = account("buyer");
    address internal payee = account("payee");
    address internal stranger = account("stranger");
    address internal admin = account("admin");
    address internal pauser = account("pauser");
    address internal arbiter = account("arbiter");

    function setUp() public virtual {
        vm.warp(NOW);
        authority = Deploy.authority(admin);
        log = Deploy.provenanceLog(authority);
        disputes = Disputes(log.disputes());
        consents = Deploy.consentRegistry();
        Renderer renderer = Deploy.renderer();
        ips = Deploy.ipRegistry(log, consents, renderer);
        licenses = Deploy.licenseRegistry(log, ips, renderer, authority);
        token = Deploy.devToken();
        treasury = registerProvider(provider, "numo", attestor, address(token), 0);
        giveRoles();
    }

    /// @dev As docs/access.md has it: pausing at once, rulings by their role; delays are tested on their own.
    function giveRoles() private {
        bytes4[] memory pausing = new bytes4[](2);
        (pausing[0], pausing[1]) = (log.pause.selector, log.unpause.selector);
        bytes4[] memory ruling = new bytes4[](1);
        ruling[0] = disputes.rule.selector;
        as_(admin).setTargetFunctionRole(address(log), pausing, PAUSER);
        as_(admin).setTargetFunctionRole(address(licenses), pausing, PAUSER);
        as_(admin).setTargetFunctionRole(address(disputes), ruling, ARBITER);
        as_(admin).grantRole(PAUSER, pauser, 0);
        as_(admin).grantRole(ARBITER, arbiter, 0);
    }

    function as_(address who) private returns (Authority) {
        vm.prank(who);
        return authority;
    }

    function registerProvider(
        address who,
        string memory name,
        address itsAttestor,
        address itsToken,
        uint32 challengeWindow
    ) internal returns (PointsTreasury itsTreasury) {
        itsTreasury = Deploy.pointsTreasury(address(log), who, itsToken, operator);
        vm.prank(who);
        log.registerProvider(name, itsAttestor, address(itsTreasury), itsToken, challengeWindow);
    }

    /* BATCHES */

    function anEvent(uint32 index, address to, uint128 reward) internal pure returns (ProvenanceEvent memory e) {
        e.index = index;
        e.dataId = bytes16(keccak256(abi.encode("data", index)));
        e.kind = 1;
        e.contributor = keccak256(abi.encode("contributor", index));
        e.contentHash = keccak256(abi.encode("content", index));
        e.consentId = keccak256(abi.encode("consent", index));
        e.commitment = keccak256(abi.encode("commitment", index));
        e.previous = keccak256(abi.encode("previous", index));
        e.sequence = 1;
        e.occurredAt = uint64(NOW);
        e.taskId = 1;
        e.reward = reward;
        e.payee = to;
    }

    function treeOf(ProvenanceEvent[] memory events) internal view returns (bytes32[] memory tree) {
        bytes32[] memory leaves = new bytes32[](events.length);
        for (uint256 i = 0; i < events.length; ++i) {
            leaves[i] = log.leafOf(events[i]);
        }
        return leaves.build();
    }

    function debitOf(uint64 taskId, uint128 amount) internal pure returns (TaskDebit[] memory debits) {
        debits = new TaskDebit[](1);
        debits[0] = TaskDebit({taskId: taskId, amount: amount});
    }

    /// @dev A batch of the provider with no rewards.
    function aBatch(uint64 number) internal view returns (Batch memory batch) {
        batch.provider = provider;
        batch.number = number;
        batch.root = keccak256(abi.encode("root", number));
        batch.eventCount = 1;
        batch.manifestCid = CID;
    }

    function aPaidBatch(uint64 number, uint64 taskId, uint128 points, uint128 wallet)
        internal
        view
        returns (Batch memory batch)
    {
        batch = aBatch(number);
        batch.pointsTotal = points;
        batch.walletTotal = wallet;
        batch.debits = debitOf(taskId, points + wallet);
    }

    function attest(Batch memory batch) internal view returns (bytes memory) {
        return sign(attestorKey, log.digestOf(batch));
    }

    function anchor(Batch memory batch) internal {
        log.anchor(batch, attest(batch));
    }

    /// @dev Anchors, where it must be refused.
    function expectAnchorRevert(Batch memory batch, bytes memory revertData) internal {
        bytes memory signature = attest(batch);
        vm.expectRevert(revertData);
        log.anchor(batch, signature);
    }

    /* MONEY */

    function fund(address who, address spender, uint256 amount) internal {
        token.mint(who, amount);
        vm.prank(who);
        token.approve(spender, type(uint256).max);
    }

    function aTask(uint128 amount) internal returns (uint64) {
        fund(sponsor, address(log), amount);
        vm.prank(sponsor);
        return
            log.createTask(provider, PRICE, uint64(block.timestamp + 30 days), keccak256("terms"), "ipfs://t", amount);
    }

    function permitOf(uint256 key, address spender, uint256 value) internal view returns (Permit memory permit) {
        address owner = vm.addr(key);
        permit.deadline = block.timestamp + 1 hours;
        bytes32 hash =
            keccak256(abi.encode(PERMIT_TYPEHASH, owner, spender, value, token.nonces(owner), permit.deadline));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), hash));
        (permit.v, permit.r, permit.s) = vm.sign(key, digest);
    }

    /// @dev An EIP-3009 authorisation whose nonce is made of `purpose`.
    function authorizationOf(uint256 key, address to, uint256 value, bytes32 purpose, bytes32 salt)
        internal
        view
        returns (Authorization memory authorization)
    {
        authorization.validBefore = block.timestamp + 1 hours;
        authorization.salt = salt;
        bytes32 nonce = (purpose >> 64) << 64;
        bytes32 hash =
            keccak256(abi.encode(RECEIVE_TYPEHASH, vm.addr(key), to, value, 0, authorization.validBefore, nonce));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), hash));
        (authorization.v, authorization.r, authorization.s) = vm.sign(key, digest);
    }

    /* DATASETS */

    function aMember(uint256 i, address to, uint96 weight) internal pure returns (Member memory) {
        return Member({
            dataId: bytes16(keccak256(abi.encode("data", i))),
            contributor: keccak256(abi.encode("contributor", i)),
            consentId: keccak256(abi.encode("consent", i)),
            payee: to,
            weight: weight
        });
    }

    function treeOf(Member[] memory members) internal view returns (bytes32[] memory tree) {
        bytes32[] memory leaves = new bytes32[](members.length);
        for (uint256 i = 0; i < members.length; ++i) {
            leaves[i] = ips.memberLeafOf(members[i]);
        }
        return leaves.build();
    }

    function proofOf(Member[] memory members, uint256 i) internal view returns (bytes32[] memory) {
        return treeOf(members).proofOf(ips.memberLeafOf(members[i]));
    }

    function contentOf(Member[] memory members) internal view returns (VersionContent memory content) {
        content.root = treeOf(members)[0];
        content.memberCount = uint32(members.length);
        content.purposes = 31;
        content.manifestCid = CID;
        for (uint256 i = 0; i < members.length; ++i) {
            content.totalWeight += members[i].weight;
            if (members[i].payee == address(0)) content.pointsWeight += members[i].weight;
        }
    }

    function attest(uint256 ipId, uint32 version, VersionContent memory content) internal view returns (bytes memory) {
        return sign(attestorKey, ips.digestOf(ipId, version, content));
    }

    function register(VersionContent memory content) internal returns (uint256 ipId) {
        bytes memory signature = attest(ips.datasetIdOf(provider, "voices"), 1, content);
        vm.prank(provider);
        return ips.registerDataset("voices", content, signature);
    }

    function addVersion(uint256 ipId, VersionContent memory content) internal returns (uint32) {
        bytes memory signature = attest(ipId, ips.latestVersionOf(ipId) + 1, content);
        vm.prank(provider);
        return ips.registerVersion(ipId, content, signature);
    }

    /* SALES */

    function someTerms() internal pure returns (Terms memory) {
        return Terms({
            price: 1000e6,
            duration: 365 days,
            purposes: 1 | 16,
            seats: 5,
            contributorBps: 7000,
            transferable: true,
            aiTraining: true,
            resaleBps: 500,
            legalHash: keccak256("legal"),
            legalUri: "ipfs://legal"
        });
    }

    function offer(uint256 ipId, Terms memory terms) internal returns (uint64) {
        vm.prank(provider);
        return licenses.publishOffer(ipId, terms);
    }

    function sell(uint256 ipId, uint64 offerId, uint128 price) internal returns (uint256) {
        uint32 version = ips.latestVersionOf(ipId);
        fund(buyer, address(licenses), price);
        vm.prank(buyer);
        return licenses.buy(offerId, version, price, buyer);
    }
}
