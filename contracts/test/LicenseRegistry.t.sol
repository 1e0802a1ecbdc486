// SPDX-License-Identifier: MIT OR Apache-2.0
// LicenseRegistry: offers, sales, revocation, transfer, and what a licence says.
pragma solidity ^0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Consent} from "../interfaces/IConsentRegistry.sol";
import {VersionContent} from "../interfaces/IIPRegistry.sol";
import {ILicenseRegistry, LicenseView, Terms} from "../interfaces/ILicenseRegistry.sol";
import {Permit} from "../interfaces/IRewardPool.sol";
import {DatasetFixture} from "./IPRegistry.t.sol";
import {FeeToken, HookToken} from "./mocks/Tokens.sol";

contract OfferTest is DatasetFixture {
    uint256 private _ipId;

    function setUp() public override {
        super.setUp();
        _ipId = register(contentOf(_members));
    }

    function expectTermsInvalid(Terms memory terms, string memory field) private {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.TermsInvalid.selector, field));
        offer(_ipId, terms);
    }

    function test_RevertWhen_DatasetIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.DatasetUnknown.selector, 1));
        offer(1, someTerms());
    }

    function test_RevertWhen_CallerIsNotItsProvider() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OnlyProvider.selector, provider, stranger));
        vm.prank(stranger);
        licenses.publishOffer(_ipId, someTerms());
    }

    function test_RevertWhen_TermsAreInvalid() external {
        Terms memory terms = someTerms();
        terms.price = 0;
        expectTermsInvalid(terms, "price");
        terms = someTerms();
        terms.duration = 0;
        expectTermsInvalid(terms, "duration");
        terms = someTerms();
        terms.seats = 0;
        expectTermsInvalid(terms, "seats");
        terms = someTerms();
        terms.contributorBps = 10_001;
        expectTermsInvalid(terms, "contributorBps");
    }

    function test_WhenPublished() external {
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.OfferPublished(1, _ipId, someTerms());
        assertEq(offer(_ipId, someTerms()), 1);
        (uint256 ipId, bool open, Terms memory terms) = licenses.offerOf(1);
        assertEq(ipId, _ipId);
        assertTrue(open);
        assertEq(keccak256(abi.encode(terms)), keccak256(abi.encode(someTerms())));
    }

    function test_RevertWhen_OfferIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferUnknown.selector, 1));
        licenses.offerOf(1);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferUnknown.selector, 1));
        licenses.closeOffer(1);
    }

    function test_RevertWhen_SomebodyElseCloses() external {
        offer(_ipId, someTerms());
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OnlyProvider.selector, provider, stranger));
        vm.prank(stranger);
        licenses.closeOffer(1);
    }

    function test_WhenClosed_OnceOnly() external {
        offer(_ipId, someTerms());
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.OfferClosed(1);
        vm.prank(provider);
        licenses.closeOffer(1);
        (, bool open,) = licenses.offerOf(1);
        assertFalse(open);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferIsClosed.selector, 1));
        vm.prank(provider);
        licenses.closeOffer(1);
    }
}

contract BuyTest is DatasetFixture {
    uint128 private constant COST = 1000e6;
    uint256 private _ipId;
    Consent private _consent;

    function setUp() public override {
        super.setUp();
        _consent.contributor = payee;
        _consent.provider = provider;
        _members[0].consentId = consents.consentIdOf(_consent);
        _ipId = register(contentOf(_members));
        offer(_ipId, someTerms());
        fund(buyer, address(licenses), COST);
    }

    function buy(uint32 version, uint128 payment, address recipient) private returns (uint256) {
        vm.prank(buyer);
        return licenses.buy(1, version, payment, recipient);
    }

    function test_RevertWhen_RecipientIsZero() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.RecipientZero.selector));
        buy(1, COST, address(0));
    }

    function test_RevertWhen_OfferIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferUnknown.selector, 2));
        licenses.buy(2, 1, COST, buyer);
        Permit memory permit;
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferUnknown.selector, 2));
        licenses.buyWithPermit(2, 1, COST, buyer, permit);
    }

    function test_RevertWhen_OfferIsClosed() external {
        vm.prank(provider);
        licenses.closeOffer(1);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OfferIsClosed.selector, 1));
        buy(1, COST, buyer);
    }

    function test_RevertWhen_VersionIsNotTheNewest() external {
        addVersion(_ipId, contentOf(_members));
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.VersionNotForSale.selector, _ipId, 1, 2));
        buy(1, COST, buyer);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.VersionNotForSale.selector, _ipId, 3, 2));
        buy(3, COST, buyer);
    }

    function test_RevertWhen_AMemberHasWithdrawn_UntilANewVersion() external {
        vm.prank(payee);
        consents.withdraw(_consent);
        ips.reportWithdrawn(_ipId, 1, _members[0], proofOf(_members, 0));
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.VersionHasWithdrawnMember.selector, _ipId, 1));
        buy(1, COST, buyer);

        _members[0] = _members[2];
        _members.pop();
        addVersion(_ipId, contentOf(_members));
        assertEq(buy(2, COST, buyer), 1);
    }

    function test_RevertWhen_PaymentIsBelowPrice() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.PaymentBelowPrice.selector, COST, COST - 1));
        buy(1, COST - 1, buyer);
    }

    function sellOtherToken(string memory name, address other) private returns (uint64 offerId) {
        vm.prank(stranger);
        log.registerProvider(name, attestor, address(treasury), other);
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(ips.datasetIdOf(stranger, "d"), 1, content);
        vm.prank(stranger);
        uint256 ipId = ips.registerDataset("d", content, signature);
        vm.prank(stranger);
        return licenses.publishOffer(ipId, someTerms());
    }

    function test_RevertWhen_TheTokenTakesAFee() external {
        FeeToken fee = new FeeToken();
        uint64 offerId = sellOtherToken("fee", address(fee));
        fee.mint(buyer, COST);
        vm.prank(buyer);
        fee.approve(address(licenses), COST);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.AmountReceivedDiffers.selector, COST, COST - 1));
        vm.prank(buyer);
        licenses.buy(offerId, 1, COST, buyer);
    }

    function test_WhenTheTokenReenters_TheInnerCallFails() external {
        HookToken hook = new HookToken();
        uint64 offerId = sellOtherToken("hook", address(hook));
        hook.mint(buyer, COST);
        vm.prank(buyer);
        hook.approve(address(licenses), COST);
        uint256 ipId = ips.datasetIdOf(stranger, "d");
        hook.onTransfer(
            address(licenses), abi.encodeCall(licenses.claimRoyalty, (ipId, 1, _members[0], proofOf(_members, 0)))
        );
        vm.prank(buyer);
        licenses.buy(offerId, 1, COST, buyer);
        assertEq(
            keccak256(hook.failure()),
            keccak256(abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector))
        );
    }

    function test_WhenBought_ThePriceIsSplit() external {
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.LicenseSold(
            1, _ipId, 1, 1, buyer, COST, 300e6, 350e6, 350e6, uint64(NOW), uint64(NOW + 365 days)
        );
        assertEq(buy(1, COST, stranger), 1);
        assertEq(licenses.ownerOf(1), stranger);
        assertEq(licenses.licenseCount(), 1);
        assertEq(token.balanceOf(provider), 300e6);
        assertEq(token.balanceOf(address(treasury)), 350e6);
        assertEq(token.balanceOf(address(licenses)), 350e6);
        assertEq(licenses.accumulatorOf(_ipId, 1), (uint256(350e6) << 128) / 50);
    }

    function test_WhenPaymentIsAboveThePrice_OnlyThePriceIsTaken() external {
        fund(buyer, address(licenses), 1);
        buy(1, COST + 1, buyer);
        assertEq(token.balanceOf(buyer), 1);
    }

    function test_WhenAllMembersArePaidInPoints_TheTreasuryGetsThePot() external {
        for (uint256 i = 0; i < 3; ++i) {
            _members[i].payee = address(0);
        }
        addVersion(_ipId, contentOf(_members));
        buy(2, COST, buyer);
        assertEq(token.balanceOf(address(treasury)), 700e6);
        assertEq(token.balanceOf(address(licenses)), 0);
        assertEq(licenses.accumulatorOf(_ipId, 2), 0);
    }

    function test_WhenContributorsGetNothing_OrAll() external {
        Terms memory terms = someTerms();
        terms.contributorBps = 0;
        offer(_ipId, terms);
        terms.contributorBps = 10_000;
        offer(_ipId, terms);
        sell(_ipId, 2, COST);
        assertEq(token.balanceOf(provider), COST);
        sell(_ipId, 3, COST);
        assertEq(token.balanceOf(provider), COST);
        assertEq(token.balanceOf(address(licenses)), COST / 2);
    }

    function test_WhenPermitted_AlsoWhenSomebodyCarriedThePermitBefore() external {
        for (uint256 i = 0; i < 2; ++i) {
            token.mint(stranger, COST);
            Permit memory permit = permitOf(keyOf("stranger"), address(licenses), COST);
            if (i == 1) {
                token.permit(stranger, address(licenses), COST, permit.deadline, permit.v, permit.r, permit.s);
            }
            vm.prank(stranger);
            uint256 licenseId = licenses.buyWithPermit(1, 1, COST, stranger, permit);
            assertEq(licenses.ownerOf(licenseId), stranger);
        }
    }
}

contract LicenseTest is DatasetFixture {
    uint256 private _ipId;
    uint256 private _licenseId;

    function setUp() public override {
        super.setUp();
        _ipId = register(contentOf(_members));
        offer(_ipId, someTerms());
        _licenseId = sell(_ipId, 1, 1000e6);
    }

    function revoke() private {
        vm.prank(provider);
        licenses.revoke(_licenseId, "data resold");
    }

    function test_RevertWhen_LicenceIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.LicenseUnknown.selector, 9));
        licenses.verify(9);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.LicenseUnknown.selector, 9));
        licenses.tokenURI(9);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.LicenseUnknown.selector, 9));
        licenses.revoke(9, "cause");
    }

    function test_RevertWhen_SomebodyElseRevokes() external {
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.OnlyProvider.selector, provider, buyer));
        vm.prank(buyer);
        licenses.revoke(_licenseId, "cause");
    }

    function test_RevertWhen_RevokedTwice() external {
        revoke();
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.AlreadyRevoked.selector, _licenseId));
        revoke();
    }

    function test_WhenActive() external view {
        LicenseView memory license = licenses.verify(_licenseId);
        assertTrue(license.active);
        assertEq(license.status, "active");
        assertEq(license.holder, buyer);
        assertEq(license.ipId, _ipId);
        assertEq(license.version, 1);
        assertEq(license.offerId, 1);
        assertEq(license.startsAt, NOW);
        assertEq(license.endsAt, NOW + 365 days);
        assertEq(license.paid, 1000e6);
        assertEq(keccak256(abi.encode(license.terms)), keccak256(abi.encode(someTerms())));
    }

    function test_WhenItsEndIsReached_ItIsExpired() external {
        vm.warp(NOW + 365 days - 1);
        assertTrue(licenses.verify(_licenseId).active);
        vm.warp(NOW + 365 days);
        assertFalse(licenses.verify(_licenseId).active);
        assertEq(licenses.verify(_licenseId).status, "expired");
    }

    function test_WhenRevoked() external {
        vm.expectEmit(address(licenses));
        emit ILicenseRegistry.LicenseRevoked(_licenseId, "data resold");
        revoke();
        LicenseView memory license = licenses.verify(_licenseId);
        assertFalse(license.active);
        assertEq(license.status, "revoked");
        assertEq(license.revocationCause, "data resold");
    }

    function test_WhenTheOfferIsClosedOrTheVersionOld_TheLicenceStays() external {
        vm.prank(provider);
        licenses.closeOffer(1);
        addVersion(_ipId, contentOf(_members));
        assertTrue(licenses.verify(_licenseId).active);
        assertEq(licenses.verify(_licenseId).version, 1);
    }

    function test_WhenTheDurationIsHuge_ItEndsAtTheLastSecond() external {
        Terms memory terms = someTerms();
        terms.duration = type(uint64).max;
        uint256 licenseId = sell(_ipId, offer(_ipId, terms), terms.price);
        assertEq(licenses.verify(licenseId).endsAt, type(uint64).max);
    }

    function test_WhenTransferable() external {
        vm.prank(buyer);
        licenses.transferFrom(buyer, stranger, _licenseId);
        assertEq(licenses.verify(_licenseId).holder, stranger);
    }

    function test_RevertWhen_NotTransferable() external {
        Terms memory terms = someTerms();
        terms.transferable = false;
        uint256 licenseId = sell(_ipId, offer(_ipId, terms), terms.price);
        vm.expectRevert(abi.encodeWithSelector(ILicenseRegistry.NotTransferable.selector, licenseId));
        vm.prank(buyer);
        licenses.transferFrom(buyer, stranger, licenseId);
    }
}
