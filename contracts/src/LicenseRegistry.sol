// SPDX-License-Identifier: MIT OR Apache-2.0
// Sells licences to dataset versions as ERC-721 tokens and splits each price between provider, points and wallets.
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IIPRegistry, Version} from "./interfaces/IIPRegistry.sol";
import {ILicenseRegistry, LicenseView, Terms} from "./interfaces/ILicenseRegistry.sol";
import {IProvenanceLog, Provider} from "./interfaces/IProvenanceLog.sol";
import {Permit} from "./interfaces/IRewardPool.sol";
import {Metadata} from "./Metadata.sol";
import {RoyaltyPool} from "./RoyaltyPool.sol";
import {TokenIntake} from "./TokenIntake.sol";

contract LicenseRegistry is ERC721, RoyaltyPool {
    using SafeCast for uint256;
    using SafeERC20 for IERC20;
    using Strings for *;
    using TokenIntake for IERC20;

    uint256 private constant BPS = 10_000;

    /// An offer's terms never change, so a licence keeps its terms by naming its offer.
    struct Offer {
        uint256 ipId;
        bool open;
        Terms terms;
    }

    struct License {
        uint64 offerId;
        uint32 version;
        uint64 startsAt;
        uint64 endsAt;
        bool revoked;
    }

    struct Split {
        uint128 providerShare;
        uint128 pointsShare;
        uint128 walletShare;
    }

    /* STORAGE */

    uint64 private _offerCount;
    /// @inheritdoc ILicenseRegistry
    uint256 public licenseCount;
    mapping(uint64 offerId => Offer) private _offers;
    mapping(uint256 licenseId => License) private _licenses;
    mapping(uint256 licenseId => string) private _revocationCauses;

    constructor(IProvenanceLog log, IIPRegistry ipRegistry)
        ERC721("Tidemark Licence", "TIDE-L")
        RoyaltyPool(log, ipRegistry)
    {}

    /* OFFERS */

    /// @inheritdoc ILicenseRegistry
    function publishOffer(uint256 ipId, Terms calldata terms) external returns (uint64 offerId) {
        _onlyProviderOf(ipId);
        require(terms.price > 0, TermsInvalid("price"));
        require(terms.duration > 0, TermsInvalid("duration"));
        require(terms.seats > 0, TermsInvalid("seats"));
        require(terms.contributorBps <= BPS, TermsInvalid("contributorBps"));

        offerId = ++_offerCount;
        _offers[offerId] = Offer({ipId: ipId, open: true, terms: terms});
        emit OfferPublished(offerId, ipId, terms);
    }

    /// @inheritdoc ILicenseRegistry
    function closeOffer(uint64 offerId) external {
        Offer storage offer = _offers[offerId];
        require(offer.ipId != 0, OfferUnknown(offerId));
        _onlyProviderOf(offer.ipId);
        require(offer.open, OfferIsClosed(offerId));

        offer.open = false;
        emit OfferClosed(offerId);
    }

    /* SALES */

    /// @inheritdoc ILicenseRegistry
    function buy(uint64 offerId, uint32 version, uint128 payment, address recipient)
        external
        nonReentrant
        returns (uint256 licenseId)
    {
        return _buy(offerId, version, payment, recipient);
    }

    /// @inheritdoc ILicenseRegistry
    function buyWithPermit(uint64 offerId, uint32 version, uint128 payment, address recipient, Permit calldata permit)
        external
        nonReentrant
        returns (uint256 licenseId)
    {
        address provider = IP_REGISTRY.providerOf(_offers[offerId].ipId);
        require(provider != address(0), OfferUnknown(offerId));
        IERC20(LOG.providerOf(provider).token).tryPermit(payment, permit);
        return _buy(offerId, version, payment, recipient);
    }

    /* LICENCES */

    /// @inheritdoc ILicenseRegistry
    function revoke(uint256 licenseId, string calldata cause) external {
        require(_ownerOf(licenseId) != address(0), LicenseUnknown(licenseId));
        License storage license = _licenses[licenseId];
        _onlyProviderOf(_offers[license.offerId].ipId);
        require(!license.revoked, AlreadyRevoked(licenseId));

        license.revoked = true;
        _revocationCauses[licenseId] = cause;
        emit LicenseRevoked(licenseId, cause);
    }

    /* VIEWS */

    /// @inheritdoc ILicenseRegistry
    function verify(uint256 licenseId) public view returns (LicenseView memory) {
        address holder = _ownerOf(licenseId);
        require(holder != address(0), LicenseUnknown(licenseId));
        License memory license = _licenses[licenseId];
        Offer storage offer = _offers[license.offerId];
        bool expired = block.timestamp >= license.endsAt;
        return LicenseView({
            active: !license.revoked && !expired,
            status: license.revoked ? "revoked" : expired ? "expired" : "active",
            holder: holder,
            ipId: offer.ipId,
            version: license.version,
            offerId: license.offerId,
            startsAt: license.startsAt,
            endsAt: license.endsAt,
            paid: offer.terms.price,
            revocationCause: _revocationCauses[licenseId],
            terms: offer.terms
        });
    }

    /// @inheritdoc ILicenseRegistry
    function offerOf(uint64 offerId) external view returns (uint256 ipId, bool open, Terms memory terms) {
        Offer storage offer = _offers[offerId];
        require(offer.ipId != 0, OfferUnknown(offerId));
        return (offer.ipId, offer.open, offer.terms);
    }

    /// @notice On-chain JSON and SVG with the terms in words.
    function tokenURI(uint256 licenseId) public view override returns (string memory) {
        LicenseView memory license = verify(licenseId);
        Terms memory terms = license.terms;
        string memory holder = license.holder.toChecksumHexString();
        string memory dataset = IP_REGISTRY.nameOf(license.ipId);
        string memory purposes = Metadata.purposesInWords(terms.purposes);
        string memory training = terms.aiTraining ? "allowed" : "not allowed";

        string[] memory lines = new string[](9);
        lines[0] = string.concat("Status: ", license.status);
        if (bytes(license.revocationCause).length > 0) {
            lines[0] = string.concat(lines[0], " (", license.revocationCause, ")");
        }
        lines[1] = string.concat("Dataset: ", dataset, ", version ", license.version.toString());
        lines[2] = string.concat("Holder: ", holder);
        lines[3] = string.concat("AI training: ", training);
        lines[4] = string.concat("Purposes: ", purposes);
        lines[5] = string.concat("Seats: ", terms.seats.toString());
        lines[6] = string.concat(
            "Valid from ", license.startsAt.toString(), " until ", license.endsAt.toString(), " (Unix seconds)"
        );
        lines[7] = terms.transferable ? "Transferable" : "Not transferable";
        lines[8] = string.concat("Legal text: ", terms.legalUri);

        string[] memory traits = new string[](11);
        traits[0] = Metadata.trait("Status", license.status);
        traits[1] = Metadata.trait("Holder", holder);
        traits[2] = Metadata.trait("Dataset", dataset);
        traits[3] = Metadata.trait("Version", license.version);
        traits[4] = Metadata.trait("AI training", training);
        traits[5] = Metadata.trait("Purposes", purposes);
        traits[6] = Metadata.trait("Seats", terms.seats);
        traits[7] = Metadata.trait("Starts at", license.startsAt);
        traits[8] = Metadata.trait("Ends at", license.endsAt);
        traits[9] = Metadata.trait("Transferable", terms.transferable ? "yes" : "no");
        traits[10] = Metadata.trait("Legal text SHA-256", uint256(terms.legalHash).toHexString(32));
        return Metadata.uri(string.concat("Data licence ", licenseId.toString()), lines, traits);
    }

    /* INTERNAL */

    function _buy(uint64 offerId, uint32 version, uint128 payment, address recipient)
        private
        returns (uint256 licenseId)
    {
        Offer storage offer = _offers[offerId];
        uint256 ipId = offer.ipId;
        require(recipient != address(0), RecipientZero());
        require(ipId != 0, OfferUnknown(offerId));
        require(offer.open, OfferIsClosed(offerId));
        uint32 latest = IP_REGISTRY.latestVersionOf(ipId);
        require(version == latest, VersionNotForSale(ipId, version, latest));
        Version memory content = IP_REGISTRY.versionOf(ipId, version);
        require(!content.withdrawn, VersionHasWithdrawnMember(ipId, version));
        uint128 price = offer.terms.price;
        require(payment >= price, PaymentBelowPrice(price, payment));

        Split memory split = _split(price, offer.terms.contributorBps, content);
        if (split.walletShare > 0) {
            _accrue(ipId, version, split.walletShare, content.totalWeight - content.pointsWeight);
        }
        licenseId = ++licenseCount;
        License memory license = License({
            offerId: offerId,
            version: version,
            startsAt: uint64(block.timestamp),
            endsAt: _endOf(offer.terms.duration),
            revoked: false
        });
        _licenses[licenseId] = license;
        emit LicenseSold(
            licenseId,
            ipId,
            version,
            offerId,
            msg.sender,
            price,
            split.providerShare,
            split.pointsShare,
            split.walletShare,
            license.startsAt,
            license.endsAt
        );
        _mint(recipient, licenseId);
        _collect(IP_REGISTRY.providerOf(ipId), price, split);
    }

    /// @dev The parts sum to the price: what a division leaves over goes to the wallets and to the provider.
    function _split(uint128 price, uint16 contributorBps, Version memory content)
        private
        pure
        returns (Split memory split)
    {
        uint256 pot = uint256(price) * contributorBps / BPS;
        uint256 points = pot * content.pointsWeight / content.totalWeight;
        split.providerShare = (price - pot).toUint128();
        split.pointsShare = points.toUint128();
        split.walletShare = (pot - points).toUint128();
    }

    function _collect(address providerAccount, uint128 price, Split memory split) private {
        Provider memory provider = LOG.providerOf(providerAccount);
        IERC20 token = IERC20(provider.token);
        uint256 received = token.pull(msg.sender, price);
        require(received == price, AmountReceivedDiffers(price, received));
        if (split.providerShare > 0) token.safeTransfer(providerAccount, split.providerShare);
        if (split.pointsShare > 0) token.safeTransfer(provider.pointsTreasury, split.pointsShare);
    }

    /// @dev A duration that runs past what fits into 64 bits means for ever.
    function _endOf(uint64 duration) private view returns (uint64) {
        uint256 end = block.timestamp + duration;
        return end > type(uint64).max ? type(uint64).max : end.toUint64();
    }

    function _onlyProviderOf(uint256 ipId) private view {
        address provider = IP_REGISTRY.providerOf(ipId);
        require(provider != address(0), DatasetUnknown(ipId));
        require(provider == msg.sender, OnlyProvider(provider, msg.sender));
    }

    /// @dev Minting is always possible; a transfer is where the terms allow it.
    function _update(address to, uint256 licenseId, address auth) internal override returns (address from) {
        from = super._update(to, licenseId, auth);
        require(
            from == address(0) || _offers[_licenses[licenseId].offerId].terms.transferable, NotTransferable(licenseId)
        );
    }
}
