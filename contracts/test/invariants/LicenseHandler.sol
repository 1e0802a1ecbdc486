// SPDX-License-Identifier: MIT OR Apache-2.0
// Random datasets, offers, sales, licences and royalties, and attempts that the registries have to refuse.
pragma solidity ^0.8.28;

import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {Consent} from "../../interfaces/IConsentRegistry.sol";
import {IIPRegistry, Member, VersionContent} from "../../interfaces/IIPRegistry.sol";
import {ILicenseRegistry, RoyaltyClaim, Terms} from "../../interfaces/ILicenseRegistry.sol";
import {Authorization, Permit} from "../../interfaces/IRewardPool.sol";
import {StandardMerkleTree} from "../StandardMerkleTree.sol";
import {DisputeHandler} from "./DisputeHandler.sol";
import {Random} from "./World.sol";

abstract contract LicenseHandler is DisputeHandler {
    using StandardMerkleTree for bytes32[];

    uint256 private constant VERSIONS_MAX = 10;
    uint256 private constant OFFERS_MAX = 30;
    uint256 private constant PROBES = 12;
    uint256 private constant NONE = type(uint256).max;

    /// Consent `i` of version `v` is withdrawn.
    mapping(uint256 v => mapping(uint256 i => bool)) private _withdrawn;

    /* DATASETS */

    function newVersion(uint256 seed) external {
        vm.assume(versions.length < VERSIONS_MAX);
        Random memory r = Random(seed);
        addVersion(r, r.below(PROVIDERS));
    }

    /// @dev One to three members; weights from 1 to nearly 2^94. The second may be the first once more; the total may be a lie.
    function addVersion(Random memory r, uint256 p) internal {
        ProviderModel storage m = providers[p];
        uint256 v = versions.length;
        VersionModel memory version;
        (version.provider, version.seed, version.number) = (p, newId(r), m.versions + 1);
        version.lie = r.below(3) == 0 ? uint8(1 + r.below(2)) : 0;
        Member[] memory those = new Member[](1 + r.below(3));
        VersionContent memory content;
        content.purposes = 31;
        uint256 heaviest = r.below(2) == 0 ? 10 : 1 << 94;
        for (uint256 i = 0; i < those.length; ++i) {
            Consent memory consent = consentOf(version, i);
            bytes32 id = consents.consentIdOf(consent);
            address to = r.below(4) == 0 ? address(0) : payeeAt(r);
            those[i] = Member(bytes16(id), id, id, to, uint96(1 + r.below(heaviest)));
            if (i == 1 && version.lie == LIE_REPEATED) those[1] = those[0];
            content.totalWeight += those[i].weight;
            if (those[i].payee == address(0)) content.pointsWeight += those[i].weight;
            content.purposes &= consent.purposes;
            members[v].push(those[i]);
        }
        if (version.lie == LIE_WEIGHT) {
            content.totalWeight = uint128(1 + r.below(content.totalWeight));
            content.pointsWeight = uint128(r.below(uint256(content.totalWeight) + 1));
        }
        (content.root, content.memberCount) = (memberTree(those)[0], uint32(those.length));
        content.manifestCid = CID;
        version.purposes = content.purposes;
        version.totalWeight = content.totalWeight;
        version.walletWeight = content.totalWeight - content.pointsWeight;
        version.unproven = version.walletWeight;
        versions.push(version);
        m.versions = version.number;

        bytes32 digest = ips.digestOf(m.ipId, version.number, content);
        bytes memory signature = sign(m.attestorKey, digest);
        if (m.formerKey != 0) {
            // P11
            bytes memory old = sign(m.formerKey, digest);
            bytes memory call = version.number == 1
                ? abi.encodeCall(ips.registerDataset, ("voices", content, old))
                : abi.encodeCall(ips.registerVersion, (m.ipId, content, old));
            refused(m.self, address(ips), call, IIPRegistry.AttestationInvalid.selector);
        }
        vm.prank(m.self);
        if (version.number == 1) assertEq(ips.registerDataset("voices", content, signature), m.ipId);
        else assertEq(ips.registerVersion(m.ipId, content, signature), version.number);
    }

    /// @dev By the contributor, by its signature or by the provider; and most often somebody reports it at once.
    function withdrawConsent(uint256 seed) external {
        Random memory r = Random(seed);
        vm.assume(versions.length > 0 && r.below(3) == 0);
        uint256 v = r.below(versions.length);
        VersionModel memory version = versions[v];
        uint256 i = r.below(members[v].length);
        vm.assume(!_withdrawn[v][i] && !(version.lie == LIE_REPEATED && i == 1));
        bytes32[] memory proof = memberTree(members[v]).proofOf(leafOf(members[v][i]));
        bytes memory report = abi.encodeCall(
            ips.reportWithdrawn, (providers[version.provider].ipId, version.number, members[v][i], proof)
        );
        refused(stranger, address(ips), report, IIPRegistry.ConsentStands.selector);

        Consent memory consent = consentOf(version, i);
        uint256 how = r.below(3);
        if (how == 0) {
            bytes32 digest = consents.withdrawalDigestOf(members[v][i].consentId);
            consents.withdrawBySignature(consent, sign(keyOf("Ada"), digest));
        } else {
            vm.prank(how == 1 ? consent.contributor : consent.provider);
            consents.withdraw(consent);
        }
        _withdrawn[v][i] = true;
        if (r.below(3) > 0) reportMember(v, i);
    }

    function reportWithdrawn(uint256 seed) external {
        Random memory r = Random(seed);
        for (uint256 probe = 0; probe < PROBES && versions.length > 0; ++probe) {
            uint256 v = r.below(versions.length);
            uint256 i = r.below(members[v].length);
            if (_withdrawn[v][i] && !versions[v].reported) return reportMember(v, i);
        }
        vm.assume(false);
    }

    /* OFFERS AND SALES */

    function publishOffer(uint256 seed) external {
        vm.assume(offers.length <= OFFERS_MAX);
        addOffer(Random(seed));
    }

    /// @dev Any terms that are valid; some allow purposes that no version may be sold for.
    function addOffer(Random memory r) internal {
        uint256 p = r.below(PROVIDERS);
        vm.assume(providers[p].versions > 0);
        OfferModel memory o;
        o.provider = p;
        o.price = uint128(1 + r.below(r.below(2) == 0 ? 1e3 : 1e27));
        o.duration = r.below(8) == 0 ? type(uint64).max : uint64(1 + r.below(60 days));
        o.purposes = r.below(3) > 0 ? uint32(r.below(2)) : uint32(r.below(32));
        o.contributorBps = r.below(4) == 0 ? 10_000 : uint16(r.below(10_001));
        o.transferable = r.below(2) == 0;
        Terms memory terms = someTerms();
        (terms.price, terms.duration, terms.purposes) = (o.price, o.duration, o.purposes);
        (terms.contributorBps, terms.transferable, terms.aiTraining) = (o.contributorBps, o.transferable, false);
        if (!o.transferable) terms.resaleBps = 0;
        offers.push(o);
        vm.prank(providers[p].self);
        assertEq(licenses.publishOffer(providers[p].ipId, terms), offers.length - 1);
    }

    function closeOffer(uint256 seed) external {
        Random memory r = Random(seed);
        uint64 id = uint64(r.below(offers.length));
        vm.assume(r.below(3) == 0 && id != 0 && !offers[id].closed);
        offers[id].closed = true;
        vm.prank(providers[offers[id].provider].self);
        licenses.closeOffer(id);
    }

    /// @dev By allowance, permit or EIP-3009, of whatever version is for sale.
    function buy(uint256 seed) external {
        Random memory r = Random(seed);
        vm.assume(!salesPaused);
        for (uint256 probe = 0; probe < PROBES; ++probe) {
            uint64 id = uint64(r.below(offers.length));
            if (id != 0 && whyNot(id) == bytes4(0)) return buyOffer(r, id);
        }
        vm.assume(false);
    }

    /// @dev An old version, a closed offer, a withdrawn member, purposes beyond the consents, too little, paused.
    function buyWrongly(uint256 seed) external {
        Random memory r = Random(seed);
        uint64 id = uint64(r.below(offers.length));
        vm.assume(id != 0);
        ProviderModel storage m = providers[offers[id].provider];
        bytes4 reason = salesPaused ? Pausable.EnforcedPause.selector : whyNot(id);
        uint32 version = m.versions;
        uint128 payment = offers[id].price;
        if (reason == bytes4(0)) {
            if (r.below(2) == 0) {
                version = r.below(2) == 0 ? version - 1 : version + 1;
                reason = ILicenseRegistry.VersionNotForSale.selector; // P5
            } else {
                --payment;
                reason = ILicenseRegistry.PaymentBelowPrice.selector;
            }
        }
        address from = people[8];
        give(from, m.token, offers[id].price);
        refused(from, address(licenses), abi.encodeCall(licenses.buy, (id, version, payment, from)), reason);
        takeBack(from, m.token, offers[id].price);
    }

    /* LICENCES */

    /// @dev Where the terms do not allow it, it is refused.
    function transferLicense(uint256 seed) external {
        Random memory r = Random(seed);
        uint256 id = r.below(sold.length);
        vm.assume(id != 0);
        LicenseModel storage l = sold[id];
        address to = people[r.below(people.length)];
        bytes memory call = abi.encodeCall(licenses.transferFrom, (l.holder, to, id));
        if (!offers[l.offer].transferable) {
            return refused(l.holder, address(licenses), call, ILicenseRegistry.NotTransferable.selector);
        }
        vm.prank(l.holder);
        licenses.transferFrom(l.holder, to, id);
        l.holder = to;
    }

    function revoke(uint256 seed) external {
        Random memory r = Random(seed);
        uint256 id = r.below(sold.length);
        vm.assume(r.below(3) == 0 && id != 0 && !sold[id].revoked);
        address self = providers[offers[sold[id].offer].provider].self;
        bytes memory call = abi.encodeCall(licenses.revoke, (id, "cause"));
        refused(sold[id].holder, address(licenses), call, ILicenseRegistry.OnlyProvider.selector);
        sold[id].revoked = true;
        vm.prank(self);
        licenses.revoke(id, "cause");
        refused(self, address(licenses), call, ILicenseRegistry.AlreadyRevoked.selector);
    }

    /* ROYALTIES */

    function claimRoyalty(uint256 seed) external {
        Random memory r = Random(seed);
        (uint256 v, uint256 i) = aRoyalty(r);
        vm.assume(v != NONE);
        RoyaltyClaim memory c = royaltyClaim(v, i);
        uint256 due = bookRoyalty(v, i);
        assertEq(licenses.claimRoyalty(c.ipId, c.version, c.member, c.proof), due);
        assertRoyalty(v, i);
        // P3
        bytes memory call = abi.encodeCall(licenses.claimRoyalty, (c.ipId, c.version, c.member, c.proof));
        refused(stranger, address(licenses), call, ILicenseRegistry.NothingToClaim.selector);
    }

    /// @dev Some of them twice.
    function claimRoyalties(uint256 seed) external {
        Random memory r = Random(seed);
        RoyaltyClaim[] memory claims = new RoyaltyClaim[](2 + r.below(4));
        uint256[] memory which = new uint256[](claims.length);
        uint256 count = 0;
        for (; count < claims.length; ++count) {
            (uint256 v, uint256 i) = aRoyalty(r);
            if (v == NONE) break;
            which[count] = v * 8 + i;
            claims[count] = royaltyClaim(v, i);
            bookRoyalty(v, i);
        }
        vm.assume(count > 0);
        for (uint256 i = count; i < claims.length; ++i) {
            claims[i] = claims[i - count];
            which[i] = which[i - count];
        }
        if (r.below(2) == 0) {
            licenses.claimRoyalties(claims);
        } else {
            bytes[] memory calls = new bytes[](2);
            calls[0] = abi.encodeCall(licenses.claimRoyalties, (claims));
            calls[1] = calls[0];
            licenses.multicall(calls);
        }
        for (uint256 i = 0; i < claims.length; ++i) {
            assertRoyalty(which[i] / 8, which[i] % 8);
        }
    }

    function claimRoyaltyWrongly(uint256 seed) external {
        Random memory r = Random(seed);
        vm.assume(versions.length > 0);
        uint256 v = r.below(versions.length);
        uint256 i = r.below(members[v].length);
        RoyaltyClaim memory c = royaltyClaim(v, i);
        bytes4 reason = ILicenseRegistry.MemberUnknown.selector;
        if (c.member.payee == address(0)) {
            reason = ILicenseRegistry.PaidInPoints.selector;
        } else if (r.below(2) == 0) {
            c.member.weight += 1;
        } else if (r.below(2) == 0) {
            c.member.payee = stranger;
        } else if (versions[v].paidIn == 0) {
            reason = ILicenseRegistry.NothingToClaim.selector;
        } else if (!proven[v][leafOf(c.member)] && c.member.weight > versions[v].unproven) {
            // P6
            assertTrue(versions[v].lie == LIE_WEIGHT);
            reason = ILicenseRegistry.WeightsExceeded.selector;
        } else if (dueTo(v, i) == 0) {
            reason = ILicenseRegistry.NothingToClaim.selector;
        } else {
            c.version = versions[v].number + 20;
            if (!proven[v][leafOf(c.member)]) c.proof = new bytes32[](0);
        }
        bytes memory call = abi.encodeCall(licenses.claimRoyalty, (c.ipId, c.version, c.member, c.proof));
        refused(stranger, address(licenses), call, reason);
    }

    /* INTERNAL */

    function consentOf(VersionModel memory version, uint256 i) private view returns (Consent memory consent) {
        uint256 nonce = uint256(keccak256(abi.encode(version.seed, i)));
        consent.contributor = payees[0];
        consent.provider = providers[version.provider].self;
        consent.purposes = nonce % 2 == 0 ? 31 : uint32(nonce >> 128) % 32 | 1;
        consent.nonce = nonce;
    }

    function reportMember(uint256 v, uint256 i) private {
        VersionModel storage version = versions[v];
        bytes32[] memory proof = memberTree(members[v]).proofOf(leafOf(members[v][i]));
        ips.reportWithdrawn(providers[version.provider].ipId, version.number, members[v][i], proof);
        version.reported = true;
    }

    function newestOf(uint256 p) private view returns (uint256 v) {
        for (v = versions.length - 1; versions[v].provider != p; --v) {}
    }

    /// @dev Why an offer can't be bought, where nobody paused; 0 where it can.
    function whyNot(uint64 id) private view returns (bytes4) {
        OfferModel storage o = offers[id];
        VersionModel storage version = versions[newestOf(o.provider)];
        if (o.closed) return ILicenseRegistry.OfferIsClosed.selector;
        if (version.reported) return ILicenseRegistry.VersionHasWithdrawnMember.selector; // P5
        if (o.purposes & ~version.purposes != 0) return ILicenseRegistry.PurposesNotConsented.selector; // P13
        return bytes4(0);
    }

    function buyOffer(Random memory r, uint64 id) internal {
        OfferModel memory o = offers[id];
        ProviderModel storage m = providers[o.provider];
        uint256 v = newestOf(o.provider);
        bookSale(o, v);

        uint256[3] memory before = holdings(m);
        address from = vm.addr(cardKey);
        address to = people[r.below(people.length)];
        token = m.token;
        uint256 how = r.below(3);
        uint256 licenseId;
        if (how == 0) {
            from = people[8 + r.below(2)];
            give(from, m.token, o.price);
            vm.prank(from);
            licenseId = licenses.buy(id, m.versions, o.price + uint128(r.below(2)), to);
        } else if (how == 1) {
            give(from, m.token, o.price);
            Permit memory permit = permitOf(cardKey, address(licenses), o.price);
            vm.prank(from);
            licenseId = licenses.buyWithPermit(id, m.versions, o.price, to, permit);
        } else {
            give(from, m.token, o.price);
            bytes32 salt = bytes32(newId(r));
            bytes32 purpose = keccak256(abi.encode(keccak256("buy"), id, m.versions, to, salt));
            Authorization memory a = authorizationOf(cardKey, address(licenses), o.price, purpose, salt);
            licenseId = licenses.buyWithAuthorization(id, m.versions, to, from, a);
        }
        // P14
        uint256[3] memory afterwards = holdings(m);
        uint256 parts = 0;
        for (uint256 i = 0; i < 3; ++i) {
            parts += afterwards[i] - before[i];
        }
        assertEq(parts, o.price);
        assertEq(m.token.balanceOf(m.self), earned[m.self][m.token]);
        uint256 endsAt = block.timestamp + o.duration;
        sold.push(
            LicenseModel(id, m.versions, to, uint64(endsAt < type(uint64).max ? endsAt : type(uint64).max), false)
        );
        assertEq(licenseId, sold.length - 1);
        // P13
        for (uint256 i = 0; i < members[v].length; ++i) {
            if (versions[v].lie == LIE_REPEATED && i == 1) continue;
            assertEq(o.purposes & ~consentOf(versions[v], i).purposes, 0);
        }
    }

    function holdings(ProviderModel storage m) private view returns (uint256[3] memory) {
        return [m.token.balanceOf(m.self), m.token.balanceOf(address(m.treasury)), m.token.balanceOf(address(licenses))];
    }

    function bookSale(OfferModel memory o, uint256 v) private {
        ProviderModel storage m = providers[o.provider];
        VersionModel storage version = versions[v];
        uint256 pot = uint256(o.price) * o.contributorBps / 10_000;
        uint256 points = pot * (version.totalWeight - version.walletWeight) / version.totalWeight;
        earned[m.self][m.token] += o.price - pot;
        m.backing += points;
        version.paidIn += pot - points;
        holds[address(licenses)][m.token] += pot - points;
    }

    function royaltyClaim(uint256 v, uint256 i) private view returns (RoyaltyClaim memory c) {
        (c.ipId, c.version) = (providers[versions[v].provider].ipId, versions[v].number);
        c.member = members[v][i];
        if (!proven[v][leafOf(c.member)]) c.proof = memberTree(members[v]).proofOf(leafOf(c.member));
    }

    /// @dev A member to whom something is due.
    function aRoyalty(Random memory r) private view returns (uint256, uint256) {
        for (uint256 probe = 0; probe < PROBES && versions.length > 0; ++probe) {
            uint256 v = r.below(versions.length);
            uint256 i = r.below(members[v].length);
            Member memory member = members[v][i];
            if (versions[v].paidIn == 0 || member.payee == address(0)) continue;
            bool fits = proven[v][leafOf(member)] || member.weight <= versions[v].unproven;
            assertTrue(fits || versions[v].lie == LIE_WEIGHT);
            if (fits && dueTo(v, i) > 0) return (v, i);
        }
        return (NONE, 0);
    }

    /// @dev What the accumulator says; whether that is right is assertRoyalty's.
    function dueTo(uint256 v, uint256 i) private view returns (uint256) {
        Member memory member = members[v][i];
        uint256 accumulator = licenses.accumulatorOf(providers[versions[v].provider].ipId, versions[v].number);
        uint256 low = (member.weight * (accumulator & type(uint128).max)) >> 128;
        return member.weight * (accumulator >> 128) + low - royaltyPaid[v][leafOf(member)];
    }

    function bookRoyalty(uint256 v, uint256 i) private returns (uint256 due) {
        Member memory member = members[v][i];
        bytes32 leaf = leafOf(member);
        due = dueTo(v, i);
        if (!proven[v][leaf]) {
            proven[v][leaf] = true;
            versions[v].unproven -= member.weight;
        }
        royaltyPaid[v][leaf] += due;
        versions[v].paidOut += due;
        earned[member.payee][providers[versions[v].provider].token] += due;
        holds[address(licenses)][providers[versions[v].provider].token] -= due;
    }

    /// @dev P7: the exact share of all that came in for the version, less than two units short of it and never above it.
    function assertRoyalty(uint256 v, uint256 i) private view {
        VersionModel storage version = versions[v];
        ProviderModel storage m = providers[version.provider];
        Member memory member = members[v][i];
        uint256 claimed = licenses.royaltyClaimedOf(m.ipId, version.number, leafOf(member));
        uint256 exact = version.paidIn * member.weight / version.walletWeight;
        assertLe(claimed, exact);
        assertLe(exact, claimed + 1);
        assertEq(claimed, royaltyPaid[v][leafOf(member)]);
        assertLe(version.paidOut, version.paidIn); // P6
        assertEq(m.token.balanceOf(member.payee), earned[member.payee][m.token]); // P9
    }
}
